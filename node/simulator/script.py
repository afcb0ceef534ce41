"""Stories: a small language in which clients use a simulated cluster, and are heard.

A story is a text of blocks (`script_text`). The commands of one block happen at one moment, in order;
then everything settles, until clients have seen nothing new for 25 ms; then what they saw is told.
``wait`` and ``at`` let time pass in between.

Where the story is about time, ``clock`` starts one: from then on what is told is preceded by the
time, in steps of 0.1 s. ``at 1.5`` waits until the clock shows that.

Nodes and time::

    nodes 3 max_msgs=5 foo.*:max_age=2s   a new world, a cluster with these settings; n1 leads it
    nodes 3 founding                      the same, before they have founded a cluster
    settings max_msgs=5 …                 other settings
    kill | power-off | stop | start | pause | resume | isolate NODE …
                                          SIGKILL, that and unsynced writes lost, SIGTERM …
    heal                                  everything gets through again
    hand over                             the leader gives its place to another
    lead NODE                             it gets the leader's place
    await leader                          until one is ready
    wait 2s; clock; clock hidden; clock off; at 1.5; set clock of n2 ahead 5s
    repeat 20: command; command           as one block, settling after each command

NODE is ``n1``, ``leader``, ``follower`` (one of them), ``followers``, ``dead`` or ``all``.

Clients, as ``a``::

    connect a to NODE [as ID] [conn C] [proto 0] [ping 5 88] [heartbeats INBOX] [roams] [quiet]
        [cluster CID]
    attach a to NODE                      NATS alone: CONNECT and PING
    open a to NODE                        not even that
    raw a "SUB x 1"                       a line; CR LF within it: several
    drop a; reconnect a to NODE           the connection breaks; a NATS reconnect, and no more
    freeze a; thaw a                      it stands still
    silent a; answers a; watch a          heartbeats are not answered, answered, told
    quit a [as ID]                        the client closes
    ping a [conn C]
    request a connect|ping|publish|subscribe|unsubscribe|subclose|close PAYLOAD [reply none]

Subscriptions, as ``s`` (called like their client if the story gives no name)::

    subscribe a CHANNEL [as s] [queue Q] [durable D] [mif 10] [wait 30s] [by ID] [inbox INBOX]
        [from new|last|first|seq:N|ago:5s|position:N] [acks] [quiet] [data] [times N]
    ack s 1 2 5..9 [inbox of t | earlier] [through b] [channel C]
    garbage s                             what is no acknowledgement, to its ack inbox
    close s | unsubscribe s [by inbox] [by ID] [channel C]
    forget a CHANNEL durable D            unsubscribe from an offline durable
    forget channel CHANNEL                it was deleted: the next message 1 is another

Publishing::

    publish a CHANNEL [COUNT] [data X] [reply R] [guid G] [conn C | by ID] [suffix S] [unacknowledged]
        [every 10ms for 2s]

Operators: see `script_operator`.

Looking::

    show state | count | channels | leader | agreement | received s | complete s | share s t
    show published a | message s SEQ | response a
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from node.simulator import script_operator
from node.simulator import script_views as views
from node.simulator.script_arguments import ScriptError, Words, seconds
from node.simulator.script_commands import ClientActs
from node.simulator.script_text import Block, told
from node.simulator.script_world import EVER_S, ScriptWorld
from node.simulator.sim_node import SimNode

QUIET_S = 0.025
SETTLE_MAX_S = 5.0
STEP_S = 0.005


class Script(ClientActs):
    """Carries out commands, and tells what came of them.

    Args:
        seed: of what is drawn in its worlds: names, elections, orders that are accidents.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self._seed = seed
        self._said: list[str] = []

    def begin(self) -> None:
        """Everything anew."""
        super().begin()
        self._clock_s: float | None = None
        self._clock_shown = True

    def play(self, block: Block) -> list[str]:
        """Carry out a block; what came of it, in lines.

        Raises:
            ScriptError: a command makes no sense.
        """
        self._said = []
        for line in block.commands:
            try:
                self._command(line)
            except ScriptError as error:
                raise ScriptError(f"{line}: {error}") from error
        self._settle()
        return self._notified() + self._said

    def _notified(self) -> list[str]:
        events, self.events = self.events, []
        shown = [event for event in events if views.is_told(event)]
        lines = told(shown, list(self.clients), self._clock_s if self._clock_shown else None)
        return lines + self.ledger.enter(events)

    def _settle(self) -> None:
        if self._there is None:
            return
        world, seen = self._there.world, len(self.events)
        quiet_from_s = world.now
        until_s = world.now + SETTLE_MAX_S
        while world.now < min(quiet_from_s + QUIET_S, until_s):
            world.run(STEP_S)
            if len(self.events) != seen:
                seen, quiet_from_s = len(self.events), world.now

    def _command(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "repeat":
            count, _, commands = rest.partition(":")
            for _ in range(int(count)):
                for command in commands.split(";"):
                    self._command(command.strip())
                    self._settle()
            return
        method: Callable[[Words], None] | None = getattr(self, "_do_" + verb.replace("-", "_"), None)
        if method is None:
            raise ScriptError("no such command")
        words = Words(shlex.split(rest))
        method(words)
        left = words.rest()
        if left:
            raise ScriptError(f"not understood: {' '.join(left)}")

    # --- nodes and time -------------------------------------------------------------------------------

    def _do_nodes(self, words: Words) -> None:
        self._settle()
        self._said += self._notified()
        self.begin()
        bootstrapped = not words.flag("founding")
        self._there = ScriptWorld(int(words.next()), words.rest(), bootstrapped=bootstrapped, seed=self._seed)

    def _do_settings(self, words: Words) -> None:
        self.there.configure(words.rest())

    def _nodes(self, words: Words) -> list[SimNode]:
        return [node for name in words.rest() for node in self.there.find(name)]

    def _do_kill(self, words: Words) -> None:
        for node in self._nodes(words):
            node.crash()

    def _do_power_off(self, words: Words) -> None:
        for node in self._nodes(words):
            node.crash(power=True)

    def _do_stop(self, words: Words) -> None:
        for node in self._nodes(words):
            node.leave()

    def _do_start(self, words: Words) -> None:
        for node in self._nodes(words):
            node.start()

    def _do_pause(self, words: Words) -> None:
        for node in self._nodes(words):
            node.pause(EVER_S)

    def _do_resume(self, words: Words) -> None:
        for node in self._nodes(words):
            node.resume()

    def _do_isolate(self, words: Words) -> None:
        for node in self._nodes(words):
            self.there.isolate(node)

    def _do_heal(self, _words: Words) -> None:
        self.there.heal()

    def _do_hand(self, words: Words) -> None:
        if not words.flag("over"):
            raise ScriptError("hand over")
        leader = self.there.leader
        self.there.run_until(lambda: not leader.leads or leader.engine.transfer_leadership())
        self.there.run_until(lambda: not leader.leads)
        self.there.await_leader()

    def _do_lead(self, words: Words) -> None:
        (node,) = self._nodes(words)
        self.there.let_lead(node)

    def _do_await(self, words: Words) -> None:
        if not words.flag("leader"):
            raise ScriptError("await leader")
        self.there.await_leader()

    def _do_wait(self, words: Words) -> None:
        self.there.world.run(seconds(words.next()))

    def _do_clock(self, words: Words) -> None:
        self._settle()
        self._clock_shown = not words.flag("hidden")
        self._clock_s = None if words.flag("off") else self.there.world.now

    def _do_at(self, words: Words) -> None:
        if self._clock_s is None:
            raise ScriptError("there is no clock")
        away_s = self._clock_s + seconds(words.next()) - self.there.world.now
        if away_s < 0:
            raise ScriptError(f"that was {-away_s:.3f} s ago")
        self.there.world.run(away_s)

    def _do_set(self, words: Words) -> None:
        ahead_s = seconds(words.after("ahead"))
        if not (words.flag("clock") and words.flag("of")):
            raise ScriptError("set clock of NODE ahead 5s")
        for node in self._nodes(words):
            node.clock.jump(ahead_s)

    # --- operators ------------------------------------------------------------------------------------

    def _do_operator(self, words: Words) -> None:
        waits = not words.flag("unanswered")
        (node,) = self.there.find(words.next())
        answers = script_operator.ask(node, words, self._consumer)
        if waits:
            self.there.run_until(lambda: bool(answers))
            self._say([script_operator.told(answers[0])])

    # --- looking --------------------------------------------------------------------------------------

    def _do_show(self, words: Words) -> None:
        self._settle()
        what = words.next()
        match what:
            case "state":
                self._say(views.state(self.there.state, self.consumers.values()))
            case "channels":
                self._say(views.channels(self.there.state))
            case "count":
                self._say([views.count(self.there.state)])
            case "leader":
                leader = self.there.find_leader()
                self._say([f"{leader.name} leads" if leader else "nobody leads"])
            case "agreement":
                self._say([self.there.agreement()])
            case "received":
                self._say([views.received(self._consumer(words))])
            case "complete":
                self._say([views.complete(self._consumer(words), self.there.state)])
            case "share":
                handles = words.rest()
                shares = [len(self.consumers[handle].received) for handle in handles]
                fair = "each more than 400" if min(shares) > 400 else "UNFAIR"
                self._say([f"{sum(shares)} in all, {fair}"])
            case "published":
                self._say([views.published(self._client(words))])
            case "message":
                consumer, seq = self._consumer(words), int(words.next())
                node = self.there.cluster.nodes[0]
                self._say([views.message(consumer, seq, node.clock.wall_clock_ns())])
            case "response":
                self._say(views.response(self._client(words).response))
            case _:
                raise ScriptError(f"nothing to show of {what}")

    def _say(self, lines: Iterable[str]) -> None:
        self._said += [*self._notified(), *lines]
