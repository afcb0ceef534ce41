"""What must hold in a simulated cluster, looked at after every step; the first breach ends the run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from node.core.records import digest
from node.core.state import State
from node.simulator.raft_checks import ViolationError

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_client import Received, SimClient
    from node.simulator.sim_node import SimNode

EARLY_S = 0.3
"""How much earlier than AckWait a client may see a redelivery: the first delivery may have been so long
on its way to the client's node and through it."""


class ClusterChecker:
    """Safety while things break, liveness after they healed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._entries: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self._leaders: dict[int, str] = {}
        self._acked_in: dict[tuple[int, int], int] = {}
        self.cold_starts = 0

    # --- the log and the state --------------------------------------------------------------------

    def observe(self, node: SimNode) -> None:
        """At most one leader a term."""
        if node.leads:
            term = node.engine.term
            if term not in self._leaders:
                self._cluster.world.counts["elections"] += 1
                self._cluster.world.note(f"{node.name} leads term {term}")
            other = self._leaders.setdefault(term, node.name)
            if other != node.name:
                raise ViolationError("election safety", f"term {term} is led by {other} and by {node.name}")

    def applying(self, node: SimNode, index: int, payload: bytes) -> None:
        """Every node applies the same entry at the same index."""
        entry = hashlib.blake2b(payload, digest_size=16).digest()
        if self._entries.setdefault(index, entry) != entry:
            raise ViolationError("state machine safety", f"{node.name} applies another entry at {index}")

    def applied(self, node: SimNode, index: int, state: State) -> None:
        """Nodes that applied the same entries hold the same state; its invariants hold."""
        if index % 16 == 0:
            found = digest(state)
            if self._digests.setdefault(index, found) != found:
                raise ViolationError(
                    "state machine safety", f"{node.name} has another state after entry {index}"
                )
        for channel in state.channels.values():
            for group in channel.groups.values():
                held: dict[int, int] = {}
                for member in group.members:
                    for seq in member.unacked:
                        if held.setdefault(seq, member.id) != member.id:
                            raise ViolationError(
                                "one holder", f"message {seq} is held by two members of a group"
                            )
                if group.cursor > channel.log.last:
                    raise ViolationError("cursor", f"a cursor of {channel.name} is beyond the end of the log")

    # --- what clients see -------------------------------------------------------------------------

    def stored(self, client: SimClient, guid: str) -> None:
        """A publish was acknowledged."""
        if guid in client.stored:
            raise ViolationError("one answer", f"{client.name} got the acknowledgement of {guid} twice")

    def received(self, client: SimClient, received: Received) -> None:
        """A delivery: flagged if it is not the first, not early, and its count never falls."""
        earlier = [before for before in client.seen.received if before.seq == received.seq]
        if not earlier:
            return
        last = earlier[-1]
        if received.data != last.data:
            raise ViolationError("content", f"{client.name}: message {received.seq} has changed")
        if not received.redelivered:
            raise ViolationError(
                "redelivered flag", f"{client.name}: message {received.seq} came again without its flag"
            )
        if received.count < last.count:
            raise ViolationError(
                "redelivery count", f"{client.name}: the count of message {received.seq} fell"
            )
        same_connection = received.session == last.session
        if client.habits.queue or not same_connection or self._cluster.troubled_since(last.at_s):
            return
        after_s = received.at_s - last.at_s
        if after_s < client.habits.ack_wait_s - EARLY_S:
            raise ViolationError(
                "AckWait", f"{client.name}: message {received.seq} came again after {after_s:.3f} s"
            )

    # --- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Everything has healed and been quiet: what was promised is there, and everywhere."""
        cluster = self._cluster
        digests = {digest(node.state) for node in cluster.nodes}
        if len(digests) != 1:
            applied = [node.engine.applied_index for node in cluster.nodes]
            raise ViolationError("convergence", f"the nodes end in different states, applied {applied}")
        self._check_log()
        self._check_delivered()

    def _check_log(self) -> None:
        node = self._cluster.nodes[0]
        stored: dict[bytes, int] = {}
        for channel in node.state.channels.values():
            for seq in range(1, channel.log.last + 1):
                payload = node.store.get(channel.id, seq)
                if payload is None:
                    raise ViolationError("store", f"message {seq} of {channel.name} is not in the store")
                data = _data(payload)
                if data in stored:
                    raise ViolationError(
                        "exactly once", f"{data!r} is stored twice, as {stored[data]} and as {seq}"
                    )
                stored[data] = seq
        for client in self._cluster.clients:
            missing = [guid for guid, data in client.stored.items() if data not in stored]
            if missing:
                raise ViolationError("durability", f"acknowledged and lost: {missing[:5]}")

    def _check_delivered(self) -> None:
        channel = self._cluster.nodes[0].state.channels.get("foo")
        last = channel.log.last if channel else 0
        everything = set(range(1, last + 1))
        queues: dict[tuple[str, str], set[int]] = {}
        for client in self._cluster.clients:
            if not client.habits.subscribes:
                continue
            seqs = {received.seq for received in client.seen.received}
            if client.habits.queue:
                queues.setdefault((client.habits.queue, client.habits.durable), set()).update(seqs)
            elif seqs != everything:
                raise ViolationError(
                    "delivery", f"{client.name} never got {sorted(everything - seqs)[:10]} of {last}"
                )
        for name, seqs in queues.items():
            if seqs != everything:
                raise ViolationError(
                    "delivery", f"queue group {name} never got {sorted(everything - seqs)[:10]} of {last}"
                )
        for node in self._cluster.nodes:
            left = {
                sub.id: sorted(sub.unacked)[:5] for sub in node.state.subscriptions.values() if sub.unacked
            }
            if left:
                raise ViolationError("acks", f"{node.name}: never acknowledged in the end: {left}")


def _data(payload: bytes) -> bytes:
    from node.protocol.streaming import decode_message

    return decode_message(payload).data
