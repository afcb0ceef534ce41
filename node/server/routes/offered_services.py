"""The services of a cluster that clients of other clusters may use: streaming, but not administration.

The same rule limits what a node offers its routing peers and what it accepts from them. A peer that claimed
more could receive requests that are not meant for it. Allowed are patterns that contain the cluster's own
name, and the inbox for acknowledgements, whose 22 letters and digits are random for each cluster.
"""

from __future__ import annotations

import re

from node.protocol.subjects import valid_client_id

_ACKS = re.compile(rb"_INBOX\.[0-9A-Za-z]{22}\.\*")
_REQUESTS = (
    "_STAN.pub.{}.>",
    "_STAN.sub.{}",
    "_STAN.unsub.{}",
    "_STAN.subclose.{}",
    "_STAN.close.{}",
    "_STAN.raft.{}.node.add",
    "_STAN.raft.{}.node.remove",
)
"""The last two, if they are served, answer that only clients of the cluster's own nodes may ask."""


def is_offered(cluster: str, pattern: bytes, discover_prefix: str = "_STAN.discover") -> bool:
    """Return True if clients of other clusters may use the service of ``cluster`` at ``pattern``.

    Args:
        cluster: its ID, from a peer; an invalid ID has no services.
        pattern: the subjects that it serves.
        discover_prefix: the part before the ID in the subjects of connect requests.
    """
    if not valid_client_id(cluster):  # the same characters
        return False
    if _ACKS.fullmatch(pattern) is not None:
        return True
    discover = f"{discover_prefix}.{cluster}"
    return pattern in {each.encode() for each in (discover, f"{discover}.pings", *_named(cluster))}


def is_ack_inbox(pattern: bytes) -> bool:
    """Return True for the pattern of ack inboxes, the only offered one without the cluster's name."""
    return _ACKS.fullmatch(pattern) is not None


def _named(cluster: str) -> list[str]:
    return [request.format(cluster) for request in _REQUESTS]
