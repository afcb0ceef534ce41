"""The data of a node on its disk, or in memory if it has no directory.

``storage`` opens it, and ``continuity`` checks that journal and store belong together. ``checkpointing``
writes the applied state to the store. ``snapshots`` copies the store to a node that fell behind, with
``snapshot_context`` and ``unfinished``. ``space`` and ``space_watch`` watch the free space. ``recovering``
turns one node's data into the beginning of another cluster.
"""
