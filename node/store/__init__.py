"""The applied state on disk: message payloads, the core's records, and the applied index.

This package makes no decisions and decodes no commands: keys, values and messages are bytes. One LMDB
environment holds everything. One transaction moves it from one applied index to the next. So a crash leaves
the exact state at some index, and the journal continues from there. Only this package imports LMDB.
"""
