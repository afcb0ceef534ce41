"""Which services of a cluster are for clients of other clusters too: that of streaming, none of operators.

The same rule says what a node offers its routing peers and what it takes from them. A peer that claimed more
would be asked what isn't meant for it: a cluster serves what has its own name in it, and the inbox of
acknowledgements, whose 22 letters and digits are drawn at its founding.
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
"""The last two are answered, if they are served: that only clients of the cluster's own nodes may ask."""


def is_offered(cluster: str, pattern: bytes, discover_prefix: str = "_STAN.discover") -> bool:
    """Whether clients of other clusters may use what ``cluster`` serves at ``pattern``.

    Args:
        cluster: its ID, as it says; one that couldn't be an ID has no services.
        pattern: what it serves.
        discover_prefix: before the ID in the subjects of connect requests.
    """
    if not valid_client_id(cluster):  # the same characters
        return False
    if _ACKS.fullmatch(pattern) is not None:
        return True
    discover = f"{discover_prefix}.{cluster}"
    return pattern in {each.encode() for each in (discover, f"{discover}.pings", *_named(cluster))}


def is_ack_inbox(pattern: bytes) -> bool:
    """Of the patterns that are offered, the one that hasn't the cluster's name in it."""
    return _ACKS.fullmatch(pattern) is not None


def _named(cluster: str) -> list[str]:
    return [request.format(cluster) for request in _REQUESTS]
