"""Scripts: a small language in which clients use a simulated cluster, and its output.

A script is a text of blocks (`script_text`). The commands of one block run at one moment, in order. Then the
world runs until clients have received nothing new for 25 ms, and the block's output is what they received.
``wait`` and ``at`` let time pass in between.

Scripts about time start a clock with ``clock``: from then on each line of output begins with the time, in
steps of 0.1 s. ``at 1.5`` waits until the clock shows that time.

Nodes and time::

    nodes 3 max_msgs=5 foo.*:max_age=2s   a new world, a cluster with these settings; n1 leads it
    nodes 3 bootstrapping                 the same, before they have bootstrapped a cluster
    settings max_msgs=5 …                 other settings
    kill | power-off | stop | start | pause | resume | isolate NODE …
                                          SIGKILL, SIGKILL with loss of unsynced writes, SIGTERM …
    heal                                  end all isolation
    hand over                             the leader transfers leadership to another node
    lead NODE                             leadership is transferred to this node
    await leader                          wait for a ready leader
    wait 2s; clock; clock hidden; clock off; at 1.5; set clock of n2 ahead 5s
    repeat 20: command; command           as one block, settling after each command

NODE is ``n1``, ``leader``, ``follower`` (the first one), ``followers``, ``dead`` or ``all``.

Clients, as ``a``::

    connect a to NODE [as ID] [conn C] [proto 0] [ping 5 88] [heartbeats INBOX] [roams] [quiet]
        [cluster CID]
    attach a to NODE                      only NATS: CONNECT and PING
    open a to NODE                        only the socket
    raw a "SUB x 1"                       send a line, or several with CR LF between them
    drop a; reconnect a to NODE           the connection breaks; a NATS reconnect without a STAN connect
    freeze a; thaw a                      the client neither reads nor writes; it continues
    unresponsive a; responsive a; watch a heartbeats are not answered; answered; part of the output
    quit a [as ID]                        the client closes
    ping a [conn C]
    request a connect|ping|publish|subscribe|unsubscribe|subclose|close PAYLOAD [reply none]

Subscriptions, as ``s`` (default: the name of the client)::

    subscribe a CHANNEL [as s] [queue Q] [durable D] [mif 10] [wait 30s] [by ID] [inbox INBOX]
        [from new|last|first|seq:N|ago:5s|position:N] [acks] [quiet] [data] [times N]
    ack s 1 2 5..9 [inbox of t | earlier] [through b] [channel C]
    garbage s                             send bytes that are no acknowledgement to its ack inbox
    close s | unsubscribe s [by inbox] [by ID] [channel C]
    forget a CHANNEL durable D            unsubscribe from an offline durable
    forget channel CHANNEL                it was deleted: the next message 1 is a different one

Publishing::

    publish a CHANNEL [COUNT] [data X] [reply R] [guid G] [conn C | by ID] [suffix S] [unacknowledged]
        [every 10ms for 2s]

Operators: see `script_operator`.

Output::

    show state | count | channels | leader | divergence | received s | complete s | share s t
    show published a | message s SEQ | response a
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable

from node.simulator import script_operator
from node.simulator import script_views as views
from node.simulator.script_arguments import ScriptError, Words, seconds
from node.simulator.script_commands import ClientCommands
from node.simulator.script_text import Block, output_lines
from node.simulator.script_world import EVER_S, ScriptWorld
from node.simulator.sim_node import SimNode

QUIET_S = 0.025
SETTLE_MAX_S = 5.0
STEP_S = 0.005


class Script(ClientCommands):
    """Executes commands and returns their output.

    Args:
        seed: of the random choices in its worlds: names, elections, orders of concurrent events.
    """

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self._seed = seed
        self._output: list[str] = []

    def begin(self) -> None:
        """Start with a new world."""
        super().begin()
        self._clock_s: float | None = None
        self._clock_shown = True

    def play(self, block: Block) -> list[str]:
        """Execute a block. Returns the lines of its output.

        Raises:
            ScriptError: a command is invalid.
        """
        self._output = []
        for line in block.commands:
            try:
                self._command(line)
            except ScriptError as error:
                raise ScriptError(f"{line}: {error}") from error
        self._settle()
        return self._event_lines() + self._output

    def _event_lines(self) -> list[str]:
        events, self.events = self.events, []
        shown = [event for event in events if views.is_shown(event)]
        lines = output_lines(shown, list(self.clients), self._clock_s if self._clock_shown else None)
        return lines + self.ledger.enter(events)

    def _settle(self) -> None:
        if self._script_world is None:
            return
        world, seen = self._script_world.world, len(self.events)
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
            raise ScriptError("unknown command")
        words = Words(shlex.split(rest))
        method(words)
        left = words.rest()
        if left:
            raise ScriptError(f"unexpected words: {' '.join(left)}")

    # --- nodes and time -------------------------------------------------------------------------------

    def _do_nodes(self, words: Words) -> None:
        self._settle()
        self._output += self._event_lines()
        self.begin()
        bootstrapped = not words.flag("bootstrapping")
        self._script_world = ScriptWorld(
            int(words.next()), words.rest(), bootstrapped=bootstrapped, seed=self._seed
        )

    def _do_settings(self, words: Words) -> None:
        self.script_world.configure(words.rest())

    def _nodes(self, words: Words) -> list[SimNode]:
        return [node for name in words.rest() for node in self.script_world.find(name)]

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
            self.script_world.isolate(node)

    def _do_heal(self, _words: Words) -> None:
        self.script_world.heal()

    def _do_hand(self, words: Words) -> None:
        if not words.flag("over"):
            raise ScriptError("hand over")
        leader = self.script_world.leader
        self.script_world.run_until(lambda: not leader.leads or leader.engine.transfer_leadership())
        self.script_world.run_until(lambda: not leader.leads)
        self.script_world.await_leader()

    def _do_lead(self, words: Words) -> None:
        (node,) = self._nodes(words)
        self.script_world.let_lead(node)

    def _do_await(self, words: Words) -> None:
        if not words.flag("leader"):
            raise ScriptError("await leader")
        self.script_world.await_leader()

    def _do_wait(self, words: Words) -> None:
        self.script_world.world.run(seconds(words.next()))

    def _do_clock(self, words: Words) -> None:
        self._settle()
        self._clock_shown = not words.flag("hidden")
        self._clock_s = None if words.flag("off") else self.script_world.world.now

    def _do_at(self, words: Words) -> None:
        if self._clock_s is None:
            raise ScriptError("no clock was started")
        away_s = self._clock_s + seconds(words.next()) - self.script_world.world.now
        if away_s < 0:
            raise ScriptError(f"that was {-away_s:.3f} s ago")
        self.script_world.world.run(away_s)

    def _do_set(self, words: Words) -> None:
        ahead_s = seconds(words.after("ahead"))
        if not (words.flag("clock") and words.flag("of")):
            raise ScriptError("set clock of NODE ahead 5s")
        for node in self._nodes(words):
            node.clock.jump(ahead_s)

    # --- operators ------------------------------------------------------------------------------------

    def _do_operator(self, words: Words) -> None:
        waits = not words.flag("unanswered")
        (node,) = self.script_world.find(words.next())
        answers = script_operator.ask(node, words, self._consumer)
        if waits:
            self.script_world.run_until(lambda: bool(answers))
            self._print([script_operator.reply_text(answers[0])])

    # --- output ---------------------------------------------------------------------------------------

    def _do_show(self, words: Words) -> None:
        self._settle()
        what = words.next()
        match what:
            case "state":
                self._print(views.state(self.script_world.state, self.consumers.values()))
            case "channels":
                self._print(views.channels(self.script_world.state))
            case "count":
                self._print([views.count(self.script_world.state)])
            case "leader":
                leader = self.script_world.find_leader()
                self._print([f"{leader.name} leads" if leader else "no leader"])
            case "divergence":
                self._print([self.script_world.divergence()])
            case "received":
                self._print([views.received(self._consumer(words))])
            case "complete":
                self._print([views.complete(self._consumer(words), self.script_world.state)])
            case "share":
                handles = words.rest()
                shares = [len(self.consumers[handle].received) for handle in handles]
                fair = "each more than 400" if min(shares) > 400 else "UNFAIR"
                self._print([f"{sum(shares)} in all, {fair}"])
            case "published":
                self._print([views.published(self._client(words))])
            case "message":
                consumer, seq = self._consumer(words), int(words.next())
                node = self.script_world.cluster.nodes[0]
                self._print([views.message(consumer, seq, node.clock.wall_clock_ns())])
            case "response":
                self._print(views.response(self._client(words).response))
            case _:
                raise ScriptError(f"can't show {what}")

    def _print(self, lines: Iterable[str]) -> None:
        self._output += [*self._event_lines(), *lines]
