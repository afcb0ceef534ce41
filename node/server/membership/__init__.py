"""Who belongs to the cluster, and how nodes come and go.

``bootstrap`` is how it begins, ``joining`` what a directory says of a node's place in it, ``entering`` how a
node joins by itself. Operators ask by ``requests``, the leader makes ``changes``, ``members`` are linked to.
"""
