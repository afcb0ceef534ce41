"""What happens, and when: the leader is killed, and killed, and paused, and killed.

Each time the story waits until somebody else leads, lets the dead node lie for a moment, starts it again and
waits until it is well before it goes on: three nodes bear one failure at a time.
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
"""How long a killed node lies before it is started again."""
PAUSE_S: Final = 2.2
"""Longer than any election timeout, shorter than the grace after which clients count as absent."""
ROUND_S: Final = 6.5
"""From one hit to the next: longer than the AckWait of 5 s and than the grace of 3 s."""
BACK_S: Final = 120.0
SETTLE_S: Final = 60.0
UNACKED_S: Final = 60.0
"""Longer than the longest AckWait, 30 s: so long waits a message whose acknowledgement died with its node."""
QUIET_S: Final = 1.5
"""At the end one listens for what should not come any more."""
REPLAY_S: Final = 60.0

CHANNELS: Final = (ORDERS, HELD)


class Script:
    """The sequence of events.

    Args:
        chance: who and when exactly; the seed of the demo.
        kills: how many.
        tell: shown every line of the timeline.
    """

    def __init__(
        self,
        cluster: Cluster,
        load: Load,
        history: History,
        show: Show,
        *,
        chance: random.Random,
        kills: int,
        tell: Callable[[Line], None],
    ) -> None:
        self._cluster = cluster
        self._load = load
        self._history = history
        self._show = show
        self._chance = chance
        self._kills = kills
        self._notify = tell
        self.load_began_s = 0.0
        self.load_ended_s = 0.0
        self.last_kill = trio.Event()

    async def run(self, nursery: trio.Nursery) -> None:
        """From the first start to the last look. ``nursery`` runs the clients.

        Raises:
            UnavailableError: the cluster did not come back from something in time.
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
        """Put a line on the timeline."""
        self._notify(self._show.happened(trio.current_time(), kind, text))

    # --- what the cluster's logs say --------------------------------------------------------------

    def role_changed(self, node: Node, role: str, term: int, cause: str) -> None:
        """A node has logged a new role."""
        if role == "leader":
            self.note("election", f"{node.name} elected in term {term}: {cause}")

    def leader_ready(self, node: Node, term: int) -> None:
        """A node has logged that it is ready to lead."""
        now = trio.current_time()
        for hit in self._history.hits:
            if hit.is_leaders and hit.ready_s is None and hit.node != node.name:
                hit.ready_s, hit.new_leader, hit.term = now, node.name, term
                after_ms = (now - hit.at_s) * 1000
                self.note("election", f"{node.name} ready, {after_ms:.0f} ms after the {hit.kind}")
        self._show.leaderless_since_s = None

    # --- acts -------------------------------------------------------------------------------------

    async def _start(self, nursery: trio.Nursery) -> None:
        self.note("phase", "three nodes are started")
        with _within(START_S, "a leader and three healthy nodes"):
            for name in self._cluster.nodes:
                await self._cluster.start(name)
            await self._cluster.leader_after(0)
            for name in self._cluster.nodes:
                await self._cluster.wait_well(name)
            self._phase("warming up")
            await self._load.start(nursery)
        self.load_began_s = trio.current_time()
        self.note("phase", "publishers, a durable subscriber, a queue group and holders are at work")
        await trio.sleep(WARM_UP_S)

    async def _round(
        self, kind: Literal["kill", "pause"], nursery: trio.Nursery, *, with_member: bool = False
    ) -> None:
        cluster = self._cluster
        await trio.sleep(self._chance.uniform(0, 0.3))
        with _within(ELECTION_S, "a leader"):
            leader = await cluster.leader_after(0)
        term, began_s = cluster.term, trio.current_time()
        self._load.well.discard(leader.name)
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
            self.note("phase", f"{leader.name} is started again")
            await cluster.start(leader.name)
        else:
            await trio.sleep_until(began_s + PAUSE_S)
            cluster.resume(leader.name)
            hit.resumed_s = trio.current_time()
            self.note("pause", f"SIGCONT {leader.name}")
        with _within(BACK_S, f"{leader.name} healthy again"):
            await cluster.wait_well(leader.name)
        self._load.well.add(leader.name)
        self.note("phase", f"{leader.name} is back and has caught up")
        await trio.sleep_until(began_s + ROUND_S)
        if with_member:
            home = self._chance.choice(list(cluster.nodes))
            with _within(BACK_S, "another member of the queue group"):
                name = await self._load.join(nursery, home)
            self.note("client", f"{name} joins the queue group at {home}")

    def _kill_member(self, leader: str) -> None:
        """The client of one member dies in the same moment; rather one at another node than the leader's."""
        members = self._load.members
        elsewhere = [name for name, node in members.items() if node != leader]
        victim = self._chance.choice(elsewhere or list(members))
        self.note("client", f"{victim} of the queue group dies too, at {members[victim] or 'no node'}")
        self._load.kill_member(victim)

    async def _finish(self) -> None:
        self._phase("settling")
        self._load.stop_publishing()
        self.load_ended_s = trio.current_time()
        self.note("phase", "publishers stop")
        await _until(lambda: not self._load.unanswered, SETTLE_S)
        lasts = await self._same_everywhere()
        await _until(lambda: not self._load.missing(lasts), SETTLE_S)
        self._load.let_go()
        with trio.move_on_after(UNACKED_S) as patience:
            while await self._unacked():  # noqa: ASYNC110  # the nodes are asked
                await trio.sleep(0.1)
        self._history.is_settled = not patience.cancelled_caught
        await trio.sleep(QUIET_S)
        self._phase("reading everything again")
        self.note(
            "phase", f"{sum(lasts.get(name, 0) for name in CHANNELS)} messages are read again from the first"
        )
        with trio.move_on_after(REPLAY_S):
            wanted = {channel: last for channel, last in lasts.items() if channel in CHANNELS}
            await self._load.replay(self._chance.choice(list(self._cluster.nodes)), wanted)

    async def _unacked(self) -> int:
        """How many messages some node has as unacknowledged; 1 if a node does not say."""
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
        """The last sequence of each channel, once all nodes name the same."""
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
    """Bounds what is waited for, and says what that was."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise UnavailableError(f"not within {seconds:g} s: {what}") from error


async def _until(is_so: Callable[[], bool], seconds: float) -> None:
    """Wait for something that is only seen by looking; if it takes too long the checker will tell."""
    with trio.move_on_after(seconds):
        while True:
            if is_so():
                return
            await trio.sleep(0.02)
