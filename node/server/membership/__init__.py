"""Cluster membership: bootstrap, joining, and changes by operators.

``bootstrap`` checks the hellos of members and starts a new cluster. ``node_identity`` holds what a directory
says about its node. ``join`` lets a node join by itself. ``requests`` takes the requests of operators, the
leader carries them out in ``reconfiguration``, and ``members`` keeps the links to the members.
"""
