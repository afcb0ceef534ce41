"""Nodes of other cluster IDs, and plain NATS traffic between them and us (``cluster.routes``, ``--routes``).

``links`` finds them and keeps a link with each ``peer``; ``traffic`` is what goes over the links, ``offered``
which services others may use, and ``peers`` what ``server.routing`` sees of all of it.
"""
