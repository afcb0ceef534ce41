"""How fast a three-node cluster is on this machine: ``python -m bench``."""
