"""Routes to nodes of other clusters, which carry plain NATS traffic (``cluster.routes``, ``--routes``).

``route_links`` finds these nodes and keeps a link with each ``route_peer``. ``route_traffic`` dispatches
their frames, ``offered_services`` says which services they may use, and ``remote_routes`` is what
``server.routing`` uses of them.
"""
