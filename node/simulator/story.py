"""Stories: a small language in which clients use a simulated cluster, and are heard.

A story is a text of blocks (`story_text`). The commands of one block happen at one moment, in order;
then everything settles, until clients have seen nothing new for 25 ms; then what they saw is told.
``wait`` and ``at`` let time pass in between.

Where the story is about time, ``clock`` starts one: from then on what is told is preceded by the
time, in steps of 0.1 s. ``at 1.5`` waits until the clock shows that.

Nodes and time::

    nodes 3 max_msgs=5 foo.*:max_age=2s   a new world, a cluster with these settings; n1 leads it
    settings max_msgs=5 …                 other settings
    kill | power-off | stop | start | pause | resume | isolate NODE …
                                          SIGKILL, that and unsynced writes lost, SIGTERM …
    heal                                  everything gets through again
    hand over                             the leader gives its place to another
    await leader                          until one is ready
    wait 2s; clock; clock hidden; clock off; at 1.5; set clock of n2 ahead 5s
    repeat 20: command; command           as one block, settling after each command

NODE is ``n1``, ``leader``, ``follower`` (one of them), ``followers``, ``dead`` or ``all``.

Clients, as ``a``::

    connect a to NODE [as ID] [conn C] [proto 0] [ping 5 88] [heartbeats INBOX] [cluster CID] [roams [quietly]]
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

Looking::

    show state | count | channels | leader | agreement | received s | complete s | share s t | published a | message s SEQ | response a
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace

from node.protocol import nats
from node.protocol import streaming as stan
from node.protocol.positions import StartPosition
from node.simulator import story_views as views
from node.simulator.sim_node import CLUSTER_ID, SimNode
from node.simulator.story_client import Consumer, Event, ScriptedClient
from node.simulator.story_text import Block, told
from node.simulator.story_world import EVER_S, StoryError, StoryWorld, numbers, seconds

QUIET_S = 0.025
SETTLE_MAX_S = 5.0
STEP_S = 0.005

SUBJECTS = {
    "connect": f"_STAN.discover.{CLUSTER_ID}",
    "ping": f"_STAN.discover.{CLUSTER_ID}.pings",
    "publish": f"_STAN.pub.{CLUSTER_ID}.foo",
    "subscribe": f"_STAN.sub.{CLUSTER_ID}",
    "unsubscribe": f"_STAN.unsub.{CLUSTER_ID}",
    "subclose": f"_STAN.subclose.{CLUSTER_ID}",
    "close": f"_STAN.close.{CLUSTER_ID}",
}

POSITIONS = {
    "new": StartPosition.NEW_ONLY,
    "last": StartPosition.LAST_RECEIVED,
    "ago": StartPosition.TIME_DELTA_START,
    "seq": StartPosition.SEQUENCE_START,
    "first": StartPosition.FIRST,
}


class Words:
    """The words of a command: what follows a key, flags, and the rest in order."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def next(self) -> str:
        """The next word.

        Raises:
            StoryError: there is none.
        """
        if not self._words:
            raise StoryError("something is missing")
        return self._words.pop(0)

    def flag(self, word: str) -> bool:
        """Whether ``word`` is there."""
        found = word in self._words
        if found:
            self._words.remove(word)
        return found

    def after(self, key: str, default: str = "") -> str:
        """The word after ``key``, or ``default``."""
        values = self.all_after(key, 1)
        return values[0] if values else default

    def all_after(self, key: str, count: int) -> list[str]:
        """The ``count`` words after ``key``; none if it isn't there."""
        if key not in self._words:
            return []
        start = self._words.index(key)
        values = self._words[start + 1 : start + 1 + count]
        if len(values) < count:
            raise StoryError(f"too little after {key}")
        del self._words[start : start + 1 + count]
        return values

    def rest(self) -> list[str]:
        """All that is left."""
        words, self._words = self._words, []
        return words


class Story:
    """Carries out commands, and tells what came of them."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._begin()

    def _begin(self) -> None:
        """Everything anew."""
        self.clients: dict[str, ScriptedClient] = {}
        self.consumers: dict[str, Consumer] = {}
        """By handle."""
        self._owners: dict[str, ScriptedClient] = {}
        self._there: StoryWorld | None = None
        self._events: list[Event] = []
        self._clock_s: float | None = None
        self._clock_shown = True
        self._ledger = views.Ledger()

    @property
    def there(self) -> StoryWorld:
        """Where the story plays.

        Raises:
            StoryError: it has not said where.
        """
        if self._there is None:
            raise StoryError("a story begins with nodes")
        return self._there

    def play(self, block: Block) -> list[str]:
        """Carry out a block; what came of it, in lines.

        Raises:
            StoryError: a command makes no sense.
        """
        self._said = []
        for line in block.commands:
            try:
                self._command(line)
            except StoryError as error:
                raise StoryError(f"{line}: {error}") from error
        self._settle()
        return self._told() + self._said

    def _tell(self, event: Event) -> None:
        self._events.append(event)

    def _told(self) -> list[str]:
        events, self._events = self._events, []
        shown = [event for event in events if views.is_told(event)]
        lines = told(shown, list(self.clients), self._clock_s if self._clock_shown else None)
        return lines + self._ledger.enter(events)

    def _settle(self) -> None:
        if self._there is None:
            return
        world, seen = self._there.world, len(self._events)
        quiet_from_s = world.now
        until_s = world.now + SETTLE_MAX_S
        while world.now < min(quiet_from_s + QUIET_S, until_s):
            world.run(STEP_S)
            if len(self._events) != seen:
                seen, quiet_from_s = len(self._events), world.now

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
            raise StoryError("no such command")
        words = Words(shlex.split(rest))
        method(words)
        left = words.rest()
        if left:
            raise StoryError(f"not understood: {' '.join(left)}")

    # --- nodes and time -------------------------------------------------------------------------------

    def _do_nodes(self, words: Words) -> None:
        self._settle()
        self._said += self._told()
        self._begin()
        self._there = StoryWorld(int(words.next()), words.rest())

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
            raise StoryError("hand over")
        leader = self.there.leader
        self.there.run_until(lambda: not leader.leads or leader.engine.transfer_leadership())
        self.there.run_until(lambda: not leader.leads)
        self.there.await_leader()

    def _do_await(self, words: Words) -> None:
        if not words.flag("leader"):
            raise StoryError("await leader")
        self.there.await_leader()

    def _do_wait(self, words: Words) -> None:
        self.there.world.run(seconds(words.next()))

    def _do_clock(self, words: Words) -> None:
        self._settle()
        self._clock_shown = not words.flag("hidden")
        self._clock_s = None if words.flag("off") else self.there.world.now

    def _do_at(self, words: Words) -> None:
        if self._clock_s is None:
            raise StoryError("there is no clock")
        away_s = self._clock_s + seconds(words.next()) - self.there.world.now
        if away_s < 0:
            raise StoryError(f"that was {-away_s:.3f} s ago")
        self.there.world.run(away_s)

    def _do_set(self, words: Words) -> None:
        ahead_s = seconds(words.after("ahead"))
        if not (words.flag("clock") and words.flag("of")):
            raise StoryError("set clock of NODE ahead 5s")
        for node in self._nodes(words):
            node.clock.jump(ahead_s)

    # --- clients --------------------------------------------------------------------------------------

    def _client(self, words: Words) -> ScriptedClient:
        name = words.next()
        if name not in self.clients:
            raise StoryError(f"no client {name}")
        return self.clients[name]

    def _open(self, words: Words, *, raw: bool = False) -> ScriptedClient:
        name = words.next()
        client = self.clients.get(name)
        if client is None:
            client = ScriptedClient(self.there.world, name, self._tell, self.there.next_node)
            self.clients[name] = client
        client.roams = words.flag("roams")
        client.roams_quietly = words.flag("quietly")
        client.heartbeat_inbox = words.after("heartbeats", client.heartbeat_inbox)
        to = words.after("to")
        if to:
            (node,) = self.there.find(to)
            if not node.serves:
                raise StoryError(f"{to} takes no clients")
            client.open(node, raw=raw)
        return client

    def _do_open(self, words: Words) -> None:
        self._open(words, raw=True)

    def _do_attach(self, words: Words) -> None:
        self._open(words)

    def _do_raw(self, words: Words) -> None:
        client = self._client(words)
        client.send(words.next().encode().decode("unicode_escape").encode("latin-1") + b"\r\n")

    def _do_connect(self, words: Words) -> None:
        client = self._open(words)
        client.client_id = words.after("as", client.client_id)
        protocol = int(words.after("proto", "1"))
        conn_id = words.after("conn").encode() or client.conn_id
        client.conn_id = conn_id if protocol else b""
        interval, most = words.all_after("ping", 2) or ["5", "88"]
        request = stan.ConnectRequest(
            client.client_id, client.heartbeat_inbox, protocol, client.conn_id, int(interval), int(most)
        )
        client.connect(request, words.after("cluster", CLUSTER_ID))

    def _do_drop(self, words: Words) -> None:
        self._client(words).drop(roams=words.flag("roams"))

    def _do_reconnect(self, words: Words) -> None:
        self._open(words)

    def _do_freeze(self, words: Words) -> None:
        self._client(words).freeze()

    def _do_thaw(self, words: Words) -> None:
        self._client(words).thaw()

    def _do_silent(self, words: Words) -> None:
        self._client(words).answers = False

    def _do_answers(self, words: Words) -> None:
        self._client(words).answers = True

    def _do_watch(self, words: Words) -> None:
        self._client(words).tells_heartbeats = True

    def _do_quit(self, words: Words) -> None:
        client = self._client(words)

        def answered(payload: bytes) -> None:
            client.say(_answer("closed", stan.decode_close_response(payload), payload))

        request = stan.CloseRequest(words.after("as", client.client_id))
        client.request(SUBJECTS["close"], stan.encode_close(request), answered)

    def _do_ping(self, words: Words) -> None:
        client = self._client(words)

        def answered(payload: bytes) -> None:
            client.say(_answer("pong", stan.decode_ping_response(payload), payload))

        conn_id = words.after("conn").encode() or client.conn_id
        client.request(SUBJECTS["ping"], stan.encode_ping(stan.PingRequest(conn_id)), answered)

    def _do_request(self, words: Words) -> None:
        client, kind, payload = self._client(words), words.next(), words.next().encode()
        decode: dict[str, Callable[[bytes], str]] = {
            "connect": lambda data: stan.decode_connect_response(data).error,
            "ping": stan.decode_ping_response,
            "publish": lambda data: stan.decode_pub_ack(data).error,
            "subscribe": lambda data: stan.decode_subscription_response(data).error,
            "unsubscribe": stan.decode_unsubscribe_response,
            "subclose": stan.decode_unsubscribe_response,
            "close": stan.decode_close_response,
        }

        def answered(data: bytes) -> None:
            client.say(_answer("done", decode[kind](data), data))

        client.request(SUBJECTS[kind], payload, answered)

    # --- subscriptions --------------------------------------------------------------------------------

    def _consumer(self, words: Words) -> Consumer:
        handle = words.next()
        if handle not in self.consumers:
            raise StoryError(f"no subscription {handle}")
        return self.consumers[handle]

    def _do_subscribe(self, words: Words) -> None:
        client, channel = self._client(words), words.next()
        handle = words.after("as", client.name)
        times = int(words.after("times", "1"))
        before = self.consumers.get(handle)
        number = 1 if before is None else len(before.earlier_ack_inboxes) + 2
        consumer = Consumer(
            handle,
            channel,
            words.after("inbox", f"_INBOX.{client.name}.m.{handle}.{number}"),
            acks=words.flag("acks"),
            quiet=words.flag("quiet"),
            data=words.flag("data"),
        )
        if before is not None:
            consumer.earlier_ack_inboxes = [*before.earlier_ack_inboxes, before.ack_inbox]
        self.consumers[handle] = consumer
        self._owners[handle] = client
        start, start_seq, delta_ns = _position(words)
        request = stan.SubscriptionRequest(
            words.after("by", client.client_id),
            channel,
            words.after("queue"),
            consumer.inbox,
            int(words.after("mif", "10")),
            int(seconds(words.after("wait", "30s"))),
            words.after("durable"),
            start,
            start_seq,
            delta_ns,
        )
        client.subscribe(consumer, request)
        for more in range(2, times + 1):
            another = replace(consumer, inbox=f"{consumer.inbox}.{more}")
            client.subscribe(another, request._replace(inbox=another.inbox))

    def _do_ack(self, words: Words) -> None:
        consumer = self._consumer(words)
        inbox, channel = consumer.ack_inbox, words.after("channel", consumer.channel)
        client = self._owners[consumer.handle]
        through = words.after("through")
        if through:
            client = self.clients[through]
        if words.flag("earlier"):
            inbox = consumer.earlier_ack_inboxes[-1]
        other = words.after("of")
        if other and words.flag("inbox"):
            inbox = self.consumers[other].ack_inbox
        for seq in numbers(words.rest()):
            client.ack(inbox, channel, seq)

    def _do_close(self, words: Words) -> None:
        self._end(words, "subclose", "closed")

    def _do_unsubscribe(self, words: Words) -> None:
        self._end(words, "unsubscribe", "unsubscribed")

    def _end(self, words: Words, kind: str, done: str) -> None:
        consumer = self._consumer(words)
        client = self._owners[consumer.handle]
        by = words.all_after("by", 1)
        inbox = consumer.ack_inbox
        if by == ["inbox"]:
            inbox, by = consumer.inbox, words.all_after("by", 1)
        client_id = by[0] if by else client.client_id
        channel = words.after("channel", consumer.channel)

        def answered(payload: bytes) -> None:
            client.say(_answer(done, stan.decode_unsubscribe_response(payload), payload), consumer.handle)

        request = stan.UnsubscribeRequest(client_id, channel, inbox)
        client.request(SUBJECTS[kind], stan.encode_unsubscribe(request), answered)

    def _do_garbage(self, words: Words) -> None:
        consumer = self._consumer(words)
        self._owners[consumer.handle].send(nats.pub(consumer.ack_inbox.encode(), b"", b"dummy"))

    def _do_forget(self, words: Words) -> None:
        if words.flag("channel"):
            self._ledger.forget(words.next())
            return
        client, channel = self._client(words), words.next()
        durable = words.after("durable")

        def answered(payload: bytes) -> None:
            client.say(_answer("forgotten", stan.decode_unsubscribe_response(payload), payload))

        request = stan.UnsubscribeRequest(client.client_id, channel, "", durable)
        client.request(SUBJECTS["unsubscribe"], stan.encode_unsubscribe(request), answered)

    # --- publishing -----------------------------------------------------------------------------------

    def _do_publish(self, words: Words) -> None:
        client, channel = self._client(words), words.next()
        data, guid, reply = words.after("data"), words.all_after("guid", 1), words.after("reply")
        client_id = words.after("by")
        conn_id = words.after("conn").encode() or (b"" if client_id else client.conn_id)
        suffix = words.all_after("suffix", 1)
        acknowledged = not words.flag("unacknowledged")
        every, during = words.after("every"), words.after("for")
        left = words.rest()
        count = int(left[0]) if left else 1

        def publish() -> None:
            client.publish(
                stan.PublishRequest(
                    client_id or client.client_id,
                    guid[0] if guid else client.new_guid(),
                    channel,
                    reply,
                    data.encode(),
                    conn_id,
                ),
                suffix=suffix[0] if suffix else None,
                acknowledged=acknowledged,
            )

        if not every:
            for _ in range(count):
                publish()
            return
        step_s = seconds(every)
        for number in range(round(seconds(during) / step_s)):
            self.there.world.after(number * step_s, lambda: publish() if client.connected else None)

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
                fair = "each more than 400" if min(shares) > 400 else "UNFAIR"  # noqa: PLR2004
                self._say([f"{sum(shares)} in all, {fair}"])
            case "published":
                self._say([views.published(self._client(words))])
            case "message":
                consumer, seq = self._consumer(words), int(words.next())
                node = self.there.cluster.nodes[0]
                self._say([views.message(consumer, seq, node.clock.wall_ns())])
            case "response":
                self._say(views.response(self._client(words).response))
            case _:
                raise StoryError(f"nothing to show of {what}")

    def _say(self, lines: Iterable[str]) -> None:
        self._said += [*self._told(), *lines]


def _answer(done: str, error: str, payload: bytes) -> str:
    if error:
        return f"refused: {error}"
    return done if not payload else f"{done}, in {len(payload)} bytes"


def _position(words: Words) -> tuple[int, int, int]:
    """Start position, sequence, and delta in nanoseconds."""
    name, _, value = words.after("from", "new").partition(":")
    match name:
        case "seq":
            return POSITIONS[name], int(value), 0
        case "ago":
            return POSITIONS[name], 0, round(seconds(value) * 1e9)
        case "position":
            return int(value), 0, 0
        case _ if name in POSITIONS:
            return POSITIONS[name], 0, 0
    raise StoryError(f"no start position {name}")
