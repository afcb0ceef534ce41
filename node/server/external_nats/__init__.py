"""The streaming service behind somebody else's NATS server (``streaming.nats_server``, ``-ns``).

``routing`` stands in for this node's own; ``link`` keeps a ``connection`` to one of the ``servers``.
"""
