"""Heartbeats to streaming clients, which only a ready leader sends (streaming protocol, "Heartbeats").

At each interval an empty request is sent to the client's heartbeat inbox. If the reply is missing, the client
becomes *unresponsive*; a reply clears that. More than ``fail_count`` misses in a row remove the client.

The number of misses and the time of the last one are part of the state. A new leader goes on with them: it
sends the next heartbeat one interval after the last miss. A client that has missed none and is reachable gets
its first heartbeat from a new leader after a whole interval.

If a client's connection has closed and its inbox has no subscriber, the heartbeat counts as missed at once.
The Go server does the same: its request is answered with "no responders".

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
    """Sends a request to a client over plain NATS."""

    def ask(
        self, inbox: str, answered: Callable[[], None], missed: Callable[[], None], timeout_s: float
    ) -> None: ...


@dataclass(slots=True)
class Pulse:
    """The heartbeat of one client, on this leader."""

    generation: Generation
    due_s: float
    failures: int = 0
    asking: bool = False


class Heartbeats:
    """Sends heartbeats to all clients while this node leads.

    Args:
        state: returns the replicated state.
        requests: sends a request to a client.
        propose: puts a command into the log.
        term: this leader's term.
        clock: monotonic seconds.
        answered: called with each client that replies.
        is_gone: returns True if a client's connection has closed and its inbox has no subscriber.
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
        self._on_answered = answered
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
        """Ignore further replies: this node no longer leads."""
        self._stopped = True

    def register(self, client: Client) -> None:
        """Schedule the first heartbeat of a client that was registered, or that a new leader takes over."""
        pulse = self._pulses.get(client.id)
        if pulse is None or pulse.generation != client.generation:
            self._pulses[client.id] = pulse = Pulse(client.generation, 0.0, client.missed)
            self._schedule(client.id, pulse, self._first_s(client))

    def _first_s(self, client: Client) -> float:
        """Return the seconds until a client's first heartbeat.

        For a client that may be gone, the interval began before this leader did. Otherwise leaders that
        follow one another quickly might never count a miss.
        """
        interval_s, since_ns = self._interval_s(), client.missed_ns
        if not client.missed:
            if not client.unreachable:
                return interval_s
            since_ns = client.gone_since_ns
        passed_s = (self._state().time_ns - since_ns) / SECOND
        return min(interval_s, max(0.0, interval_s - passed_s))

    def pinged(self, client_id: str) -> None:
        """Send a heartbeat at once to a client that has missed some and has pinged: its misses end soon."""
        pulse = self._pulses.get(client_id)
        if pulse is not None and pulse.failures and not pulse.asking:
            self._schedule(client_id, pulse, 0.0)

    def moved(self, client: Client) -> None:
        """Repeat the heartbeat of a client that has moved to another connection, if one is pending or was
        missed.

        The pending request was lost with the old connection. It would count as missed, and the client would
        get no redeliveries until its next heartbeat, an interval later (D25).
        """
        pulse = self._pulses.get(client.id)
        if pulse is None or pulse.generation != client.generation:
            return
        if pulse.asking:  # a new pulse: the result of the first request is ignored
            pulse = self._pulses[client.id] = Pulse(client.generation, 0.0, pulse.failures)
            self._schedule(client.id, pulse, 0.0)
        elif pulse.failures:
            self._schedule(client.id, pulse, 0.0)

    def ask_extra(self, client: Client) -> None:
        """Send a client an extra heartbeat. A reply is reported as usual; a missing one doesn't count."""
        timeout_s = self._state().settings.heartbeat_timeout_ns / SECOND
        generation = client.generation

        def answered() -> None:
            current = self._state().clients.get(client.id)
            if not self._stopped and current is not None and current.generation == generation:
                self._on_answered(current)

        self._requests.ask(client.heartbeat_inbox, answered, lambda: None, timeout_s)

    def beat(self) -> None:
        """Send a heartbeat to every client that is due."""
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
        if self._is_over(client_id, pulse):
            return
        client = self._state().clients.get(client_id)
        if client is not None and client.generation == pulse.generation:
            self._on_answered(client)
        missed, pulse.failures = pulse.failures, 0
        # After a miss even if the state doesn't say unresponsive: that command may not be applied yet.
        if missed or self._is_unresponsive(client_id):
            self._propose(ClientUnresponsive(self._term, client_id, pulse.generation, False))
        self._schedule(client_id, pulse, self._interval_s())

    def _missed(self, client_id: str, pulse: Pulse) -> None:
        if self._is_over(client_id, pulse):
            return
        pulse.failures += 1
        if pulse.failures > self._state().settings.heartbeat_fail_count:
            self._propose(ClientRemove(self._term, client_id, pulse.generation))
        elif not too_new(HeartbeatMissed, self._state().version):
            self._propose(HeartbeatMissed(self._term, client_id, pulse.generation, pulse.failures))
        # After a later miss too if the client isn't unresponsive: it has subscribed since (D46).
        elif pulse.failures == 1 or not self._is_unresponsive(client_id):
            self._propose(ClientUnresponsive(self._term, client_id, pulse.generation, True))
        self._schedule(client_id, pulse, self._interval_s())

    def _is_unresponsive(self, client_id: str) -> bool:
        client = self._state().clients.get(client_id)
        return client is not None and client.unresponsive

    def _is_over(self, client_id: str, pulse: Pulse) -> bool:
        pulse.asking = False
        return self._stopped or self._pulses.get(client_id) is not pulse

    def _schedule(self, client_id: str, pulse: Pulse, after_s: float) -> None:
        pulse.due_s = self._clock() + after_s
        heapq.heappush(self._due, (pulse.due_s, client_id, pulse.generation))

    def _interval_s(self) -> float:
        return self._state().settings.heartbeat_interval_ns / SECOND
