"""Bytes to values and back, and the rules of names; no I/O, no clock, no state but a parser's buffer.

* ``nats`` what NATS clients say, ``nats_replies`` what servers say, ``lines`` what both share
* ``streaming`` the STAN messages as values, over the code generated from ``streaming.proto``
* ``message`` stored messages as bytes and ``positions``: what the core needs of them, without protobuf
* ``subjects`` subject grammar, wildcards, interest; channel names and client IDs
* ``peer`` the frames between nodes

Input is judged here only by its form. ``RemoteProtocolError`` is the only error that it can cause.
"""
