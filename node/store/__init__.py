"""The applied state on disk: message payloads, the core's records, and how far they go.

Nothing here decides anything and nothing here knows a command: keys, values and messages are bytes.
One LMDB environment holds everything, and one transaction moves it from one applied index to the
next, so that whatever a crash leaves behind is the exact state at some index, from where the journal
goes on. Only this package imports LMDB.
"""
