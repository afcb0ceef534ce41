"""A small NATS Streaming client on trio that reconnects, for ``stanchion pub`` and ``sub``, the demo and
tests.

It uses only the public protocol, so it works with every server of that protocol. ``nats`` keeps a NATS
connection to one of the nodes, ``streaming`` is the client for applications.
"""

from node.client.streaming import Client, Message, Subscription, connect

__all__ = ["Client", "Message", "Subscription", "connect"]
