"""The streaming service behind an external NATS server (``streaming.nats_server``, ``-ns``).

``routing`` replaces this node's own routing; ``link`` keeps a ``connection`` to one of the ``servers``;
``serving`` opens and closes the service with this node's leadership.
"""
