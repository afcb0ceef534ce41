"""What operators ask of a running cluster, at any node.

``requests`` takes what they ask, ``verbs`` has all there is to ask for, ``views`` and ``peeking`` are what
they are shown, and ``asking`` brings to the leader what only it can do.
"""
