"""Heartbeats to streaming clients, which only a ready leader sends (streaming protocol, "Heartbeats").

Every interval an empty request goes to the client's heartbeat inbox. A missed answer makes the
client *silent*, an answer clears that; more than ``fail_count`` misses in a row remove it. The count is part
of the state, with the time of the last miss, and a new leader goes on with it: one interval after that miss
it asks again. Who has missed nothing and isn't absent is asked after a whole interval.

A client whose connection has closed, and whose inbox nobody hears, misses its heartbeat at once; as in the Go
server, whose request then comes back with "no responders".

A plain object without I/O.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from node.core.commands import ClientRemove, ClientUnresponsive, HeartbeatMissed, LeaderCommand
from node.core.state import Client, State
from node.core.versions import too_new
from node.units import SECOND, Generation


class Requests(Protocol):
    """Asks something of a client, over plain NATS."""

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None: ...


@dataclass(slots=True)
class Pulse:
    """One client's heartbeat, as this leader has seen it."""

    generation: Generation
    due_s: float
    failures: int = 0
    asking: bool = False


class Heartbeats:
    """The pulses of all clients, while this node leads.

    Args:
        state: the replicated state.
        requests: how a client is asked.
        propose: puts a command into the log.
        term: this leader's term.
        clock: monotonic seconds.
        answered: told of each client that answers.
        is_gone: whether a client's connection is known to have closed, and nobody hears its inbox.
    """

    def __init__(
        self,
        state: Callable[[], State],
        requests: Requests,
        propose: Callable[[LeaderCommand], None],
        term: int,
        clock: Callable[[], float],
        *,
        answered: Callable[[Client], None] = lambda _client: None,
        is_gone: Callable[[Client], bool] | None = None,
    ) -> None:
        self._is_gone = is_gone or (lambda _client: False)
        self._state = state
        self._told_answered = answered
        self._requests = requests
        self._propose = propose
        self._term = term
        self._clock = clock
        self._pulses: dict[str, Pulse] = {}
        self._due: list[tuple[float, str, Generation]] = []
        self._stopped = False

    def next_deadline(self) -> float | None:
        return self._due[0][0] if self._due else None

    def stop(self) -> None:
        """This node leads no longer: answers that still come mean nothing."""
        self._stopped = True

    def register(self, client: Client) -> None:
        """A client was registered, or this leader has just become ready: its first beat is due later."""
        pulse = self._pulses.get(client.id)
        if pulse is None or pulse.generation != client.generation:
            self._pulses[client.id] = pulse = Pulse(client.generation, 0.0, client.missed)
            self._schedule(client.id, pulse, self._first_s(client))

    def _first_s(self, client: Client) -> float:
        """In how many seconds a client is asked first.

        One that may be gone is asked as if this leader had led all the while: where leaders come and go, none
        of them might ever count a miss.
        """
        interval_s, since_ns = self._interval_s(), client.missed_ns
        if not client.missed:
            if not client.unreachable:
                return interval_s
            since_ns = client.gone_since_ns
        passed_s = (self._state().time_ns - since_ns) / SECOND
        return min(interval_s, max(0.0, interval_s - passed_s))

    def pinged(self, client_id: str) -> None:
        """A client that missed heartbeats has pinged: ask it at once, so that it counts as heard soon."""
        pulse = self._pulses.get(client_id)
        if pulse is not None and pulse.failures and not pulse.asking:
            self._schedule(client_id, pulse, 0.0)

    def moved(self, client: Client) -> None:
        """Ask a client again that is connected elsewhere, if it was asked through the connection before.

        That request died with the connection: unanswered, it would count as missed, and nothing would be sent
        again to the client until its next turn, an interval later (D25).
        """
        pulse = self._pulses.get(client.id)
        if pulse is None or pulse.generation != client.generation:
            return
        if pulse.asking:  # what comes of the first request means nothing any more
            pulse = self._pulses[client.id] = Pulse(client.generation, 0.0, pulse.failures)
            self._schedule(client.id, pulse, 0.0)
        elif pulse.failures:
            self._schedule(client.id, pulse, 0.0)

    def ask_beside(self, client: Client) -> None:
        """Ask a client out of turn. An answer is told like any other; that there is none means nothing."""
        timeout_s = self._state().settings.heartbeat_timeout_ns / SECOND
        generation = client.generation

        def answered() -> None:
            known = self._state().clients.get(client.id)
            if not self._stopped and known is not None and known.generation == generation:
                self._told_answered(known)

        self._requests.ask(client.heartbeat_inbox, answered, lambda: None, timeout_s)

    def beat(self) -> None:
        """Ask every client whose interval has passed."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            due, client_id, generation = heapq.heappop(self._due)
            pulse = self._pulses.get(client_id)
            if pulse is None or pulse.generation != generation or pulse.due_s != due or pulse.asking:
                continue  # replaced, or asked earlier because of a ping
            client = self._state().clients.get(client_id)
            if client is None or client.generation != generation:
                del self._pulses[client_id]
                continue
            self._ask(client, pulse)

    def _ask(self, client: Client, pulse: Pulse) -> None:
        if self._is_gone(client):
            self._missed(client.id, pulse)
            return
        pulse.asking = True
        timeout_s = self._state().settings.heartbeat_timeout_ns / SECOND
        self._requests.ask(
            client.heartbeat_inbox,
            lambda: self._answered(client.id, pulse),
            lambda: self._missed(client.id, pulse),
            timeout_s,
        )

    def _answered(self, client_id: str, pulse: Pulse) -> None:
        if self._over(client_id, pulse):
            return
        client = self._state().clients.get(client_id)
        if client is not None and client.generation == pulse.generation:
            self._told_answered(client)
        missed, pulse.failures = pulse.failures, 0
        if missed or self._is_unresponsive(
            client_id
        ):  # what was proposed when it missed may not be applied yet
            self._propose(ClientUnresponsive(self._term, client_id, pulse.generation, False))
        self._schedule(client_id, pulse, self._interval_s())

    def _missed(self, client_id: str, pulse: Pulse) -> None:
        if self._over(client_id, pulse):
            return
        pulse.failures += 1
        if pulse.failures > self._state().settings.heartbeat_fail_count:
            self._propose(ClientRemove(self._term, client_id, pulse.generation))
        elif not too_new(HeartbeatMissed, self._state().version):
            self._propose(HeartbeatMissed(self._term, client_id, pulse.generation, pulse.failures))
        elif pulse.failures == 1 or not self._is_unresponsive(
            client_id
        ):  # else it has subscribed since (D46)
            self._propose(ClientUnresponsive(self._term, client_id, pulse.generation, True))
        self._schedule(client_id, pulse, self._interval_s())

    def _is_unresponsive(self, client_id: str) -> bool:
        client = self._state().clients.get(client_id)
        return client is not None and client.unresponsive

    def _over(self, client_id: str, pulse: Pulse) -> bool:
        pulse.asking = False
        return self._stopped or self._pulses.get(client_id) is not pulse

    def _schedule(self, client_id: str, pulse: Pulse, after_s: float) -> None:
        pulse.due_s = self._clock() + after_s
        heapq.heappush(self._due, (pulse.due_s, client_id, pulse.generation))

    def _interval_s(self) -> float:
        return self._state().settings.heartbeat_interval_ns / SECOND
