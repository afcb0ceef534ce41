"""Codecs between bytes and values, and the rules of names.

No I/O and no clock; the only state is a parser's buffer.

* ``nats`` what NATS clients send, ``nats_replies`` what servers send, ``lines`` what both parsers share
* ``streaming`` the STAN messages as values, over the code generated from ``streaming.proto``
* ``message`` and ``positions``: stored messages as bytes, and start positions, for the core; without protobuf
* ``subjects`` subject grammar, wildcards, interest; channel names and client IDs
* ``peer`` the frames between nodes

Input is checked only for its form here. ``RemoteProtocolError`` is the only error that it can cause.
"""
