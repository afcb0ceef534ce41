"""Types of numbers and names that must not be confused, for the type checker.

Times in decisions are integer nanoseconds. ``ClusterTime`` is monotonic and is part of the replicated log.
``Timestamp`` is Unix time, never decreasing, for messages and ages.
"""

from __future__ import annotations

from typing import NewType

Index = NewType("Index", int)
"""A position in the Raft log: 1, 2, 3 …"""

Term = NewType("Term", int)
"""A Raft term."""

Seq = NewType("Seq", int)
"""A message's number in its channel: 1, 2, 3 … without gaps."""

Serial = NewType("Serial", int)
"""A request's number in its origin's session: 1, 2, 3 … without gaps."""

ClusterTime = NewType("ClusterTime", int)
"""Nanoseconds of cluster time, a monotonic clock for AckWait, graces and all deadlines."""

Timestamp = NewType("Timestamp", int)
"""Unix time in nanoseconds, never decreasing in the log; for messages, max_age and start positions."""

NodeName = NewType("NodeName", str)
ClientID = NewType("ClientID", str)
ChannelName = NewType("ChannelName", str)

ChannelID = NewType("ChannelID", int)
"""A channel's key in the store; never reused after the channel is deleted."""

SubscriptionID = NewType("SubscriptionID", int)
"""A subscription's key, unique for the life of the cluster."""

Generation = tuple[int, int]
"""(index of the entry, position of the command in it) that created an object. Also a session's id."""

MILLISECOND = 1_000_000
SECOND = 1_000_000_000
