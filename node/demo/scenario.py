"""The script of the demo: the leader is killed several times and paused once.

After each kill or pause the script waits for a new leader, starts or resumes the victim and waits until it is
healthy: three nodes survive one failure at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import trio

from node.demo.cluster import Cluster, Node
from node.demo.history import History, Hit
from node.demo.load import HELD, ORDERS, Load
from node.demo.show import Line, Show
from node.errors import UnavailableError

START_S: Final = 120.0
WARM_UP_S: Final = 3.0
ELECTION_S: Final = 60.0
DOWN_S: Final = 1.8
"""How long a killed node stays down."""
PAUSE_S: Final = 2.2
"""Longer than any election timeout, shorter than the grace after which clients count as unreachable."""
ROUND_S: Final = 6.5
"""Time between two kills: longer than the AckWait of 5 s and the grace of 3 s."""
BACK_S: Final = 120.0
SETTLE_S: Final = 60.0
UNACKED_S: Final = 60.0
"""Longer than the longest AckWait, 30 s: a message waits so long if its acknowledgement died with a node."""
QUIET_S: Final = 1.5
"""At the end, the time in which no further message may arrive."""
REPLAY_S: Final = 60.0

CHANNELS: Final = (ORDERS, HELD)


class Script:
    """The events of the demo.

    Args:
        rng: random choices of victims and times, from the seed of the demo.
        kills: number of kills.
        on_line: called with every line of the timeline.
    """

    def __init__(
        self,
        cluster: Cluster,
        load: Load,
        history: History,
        show: Show,
        *,
        rng: random.Random,
        kills: int,
        on_line: Callable[[Line], None],
    ) -> None:
        self._cluster = cluster
        self._load = load
        self._history = history
        self._show = show
        self._rng = rng
        self._kills = kills
        self._notify = on_line
        self.load_began_s = 0.0
        self.load_ended_s = 0.0
        self.last_kill = trio.Event()

    async def run(self, nursery: trio.Nursery) -> None:
        """Run the whole script. ``nursery`` runs the clients.

        Raises:
            UnavailableError: the cluster did not recover in time.
        """
        await self._start(nursery)
        for number in range(1, self._kills + 1):
            self._phase(f"kill {number} of {self._kills}")
            await self._round("kill", nursery, with_member=number == min(2, self._kills))
            if number == (self._kills + 1) // 2:
                self._phase("a pause")
                await self._round("pause", nursery)
        await self._finish()

    def _phase(self, text: str) -> None:
        self._show.phase = text

    def note(self, kind: str, text: str) -> None:
        """Add a line to the timeline."""
        self._notify(self._show.happened(trio.current_time(), kind, text))

    # --- events in the nodes' logs ----------------------------------------------------------------

    def role_changed(self, node: Node, role: str, term: int, cause: str) -> None:
        """Handle the log line of a node with a new role."""
        if role == "leader":
            self.note("election", f"{node.name} is elected in term {term}: {cause}")

    def leader_ready(self, node: Node, term: int) -> None:
        """Handle the log line of a leader that is ready."""
        now = trio.current_time()
        for hit in self._history.hits:
            if hit.is_leaders and hit.ready_s is None and hit.node != node.name:
                hit.ready_s, hit.new_leader, hit.term = now, node.name, term
                after_ms = (now - hit.at_s) * 1000
                self.note("election", f"{node.name} is ready, {after_ms:.0f} ms after the {hit.kind}")
        self._show.leaderless_since_s = None

    # --- steps ------------------------------------------------------------------------------------

    async def _start(self, nursery: trio.Nursery) -> None:
        self.note("phase", "starting three nodes")
        with _within(START_S, "a leader and three healthy nodes"):
            for name in self._cluster.nodes:
                await self._cluster.start(name)
            await self._cluster.leader_after(0)
            for name in self._cluster.nodes:
                await self._cluster.wait_healthy(name)
            self._phase("warming up")
            await self._load.start(nursery)
        self.load_began_s = trio.current_time()
        self.note("phase", "publishers, a durable subscriber, a queue group and holders are at work")
        await trio.sleep(WARM_UP_S)

    async def _round(
        self, kind: Literal["kill", "pause"], nursery: trio.Nursery, *, with_member: bool = False
    ) -> None:
        cluster = self._cluster
        await trio.sleep(self._rng.uniform(0, 0.3))
        with _within(ELECTION_S, "a leader"):
            leader = await cluster.leader_after(0)
        term, began_s = cluster.term, trio.current_time()
        self._load.healthy.discard(leader.name)
        hit = Hit(leader.name, kind, began_s, "leader", term=term)
        self._history.hits.append(hit)
        if sum(each.kind == "kill" for each in self._history.hits) == self._kills:
            self.last_kill.set()
        self._show.leaderless_since_s = began_s
        if kind == "kill":
            cluster.kill(leader.name)
            self.note("kill", f"kill -9 {leader.name}, the leader of term {term}")
        else:
            cluster.pause(leader.name)
            self.note("pause", f"SIGSTOP {leader.name}, the leader of term {term}")
        if with_member:
            self._kill_member(leader.name)
        with _within(ELECTION_S, "a new leader"):
            await cluster.leader_after(term)
        if kind == "kill":
            await trio.sleep_until(began_s + DOWN_S)
            self.note("phase", f"{leader.name} is restarted")
            await cluster.start(leader.name)
        else:
            await trio.sleep_until(began_s + PAUSE_S)
            cluster.resume(leader.name)
            hit.resumed_s = trio.current_time()
            self.note("pause", f"SIGCONT {leader.name}")
        with _within(BACK_S, f"{leader.name} healthy again"):
            await cluster.wait_healthy(leader.name)
        self._load.healthy.add(leader.name)
        self.note("phase", f"{leader.name} is healthy and has caught up")
        await trio.sleep_until(began_s + ROUND_S)
        if with_member:
            home = self._rng.choice(list(cluster.nodes))
            with _within(BACK_S, "another member of the queue group"):
                name = await self._load.join(nursery, home)
            self.note("client", f"{name} joins the queue group at {home}")

    def _kill_member(self, leader: str) -> None:
        """Kill the client of a member at the same moment, preferably one that is not at the leader's node."""
        members = self._load.members
        elsewhere = [name for name, node in members.items() if node != leader]
        victim = self._rng.choice(elsewhere or list(members))
        self.note("client", f"{victim} of the queue group is killed too, at {members[victim] or 'no node'}")
        self._load.kill_member(victim)

    async def _finish(self) -> None:
        self._phase("settling")
        self._load.stop_publishing()
        self.load_ended_s = trio.current_time()
        self.note("phase", "publishers stop")
        await _until(lambda: not self._load.unanswered, SETTLE_S)
        lasts = await self._same_everywhere()
        await _until(lambda: not self._load.missing(lasts), SETTLE_S)
        self._load.release_held()
        with trio.move_on_after(UNACKED_S) as patience:
            while await self._unacked():  # noqa: ASYNC110  # polls the nodes
                await trio.sleep(0.1)
        self._history.is_settled = not patience.cancelled_caught
        await trio.sleep(QUIET_S)
        self._phase("replaying all messages")
        self.note(
            "phase", f"{sum(lasts.get(name, 0) for name in CHANNELS)} messages are replayed from the first"
        )
        with trio.move_on_after(REPLAY_S):
            wanted = {channel: last for channel, last in lasts.items() if channel in CHANNELS}
            await self._load.replay(self._rng.choice(list(self._cluster.nodes)), wanted)

    async def _unacked(self) -> int:
        """Return the number of unacknowledged messages at all nodes; 1 if a node does not answer."""
        found = 0
        for name in self._cluster.nodes:
            try:
                page = await self._cluster.page(name, "/streaming/channelsz?subs=1")
            except UnavailableError:
                return 1
            found += sum(
                int(sub["pending_count"])
                for channel in page.get("channels", [])
                if channel["name"] in CHANNELS
                for sub in channel.get("subscriptions", [])
            )
        return found

    async def _same_everywhere(self) -> dict[str, int]:
        """Wait until all nodes have the same last sequences, and return them by channel."""
        views: dict[str, Any] = {}
        with trio.move_on_after(SETTLE_S):
            while True:
                for name in self._cluster.nodes:
                    views[name] = await self._sequences(name)
                first = next(iter(views.values()))
                if first is not None and all(view == first for view in views.values()):
                    return {channel: last for channel, (_, last) in first.items()}
                await trio.sleep(0.05)
        self._history.contradictions.append(f"the nodes' channels differ: {views}")
        known = [view for view in views.values() if view is not None]
        return {name: max((view.get(name, (0, 0))[1] for view in known), default=0) for name in CHANNELS}

    async def _sequences(self, node: str) -> dict[str, tuple[int, int]] | None:
        try:
            page = await self._cluster.page(node, "/streaming/channelsz?subs=1")
        except UnavailableError:
            return None
        return {each["name"]: (each["first_seq"], each["last_seq"]) for each in page.get("channels", [])}


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    """Limit the time of the block; name what did not happen in the error."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise UnavailableError(f"timeout after {seconds:g} s, waiting for {what}") from error


async def _until(is_so: Callable[[], bool], seconds: float) -> None:
    """Poll a condition until it is true. After a timeout the checker reports the consequence."""
    with trio.move_on_after(seconds):
        while True:
            if is_so():
                return
            await trio.sleep(0.02)
