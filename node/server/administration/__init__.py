"""Requests of operators to a running cluster, at any node.

``requests`` accepts and checks them, and ``verbs`` has the requests about channels, subscriptions, clients
and settings. ``views`` and ``peeking`` build the answers. ``asking`` forwards requests that only the leader
can execute.
"""
