"""A small resilient NATS Streaming client on trio: for ``stanchion pub`` and ``sub``, the demo and tests.

It speaks the public protocol only, so it works with any server of that protocol. ``nats`` keeps one
NATS connection alive across nodes, ``streaming`` is the client that applications see.
"""

from node.client.streaming import Client, Message, Subscription, connect

__all__ = ["Client", "Message", "Subscription", "connect"]
