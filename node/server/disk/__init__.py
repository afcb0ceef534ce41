"""What a node keeps on its disk, or in memory for want of one.

``storage`` opens it, ``continuity`` says whether journal and store belong together, ``checkpointing`` writes
the state behind the log, ``snapshots`` brings it to a node that fell behind (with ``snapshot_context`` and
``unfinished``), and ``recovering`` makes one node's data the beginning of another cluster.
"""
