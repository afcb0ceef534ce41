"""The commands of clients and subscriptions in a script.

`script` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from node.protocol import nats
from node.protocol import streaming as stan
from node.simulator.expected_membership import CLUSTER_ID
from node.simulator.script_arguments import ScriptError, Words, numbers, position, seconds
from node.simulator.script_client import Consumer, Event, ScriptedClient
from node.simulator.script_views import Ledger
from node.simulator.script_world import ScriptWorld

SUBJECTS = {
    "connect": f"_STAN.discover.{CLUSTER_ID}",
    "ping": f"_STAN.discover.{CLUSTER_ID}.pings",
    "publish": f"_STAN.pub.{CLUSTER_ID}.foo",
    "subscribe": f"_STAN.sub.{CLUSTER_ID}",
    "unsubscribe": f"_STAN.unsub.{CLUSTER_ID}",
    "subclose": f"_STAN.subclose.{CLUSTER_ID}",
    "close": f"_STAN.close.{CLUSTER_ID}",
}


class ClientCommands:
    """The clients and subscriptions of a script, by name, and what they have received."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget everything and start with a new world."""
        self.clients: dict[str, ScriptedClient] = {}
        self.consumers: dict[str, Consumer] = {}
        """By handle."""
        self.events: list[Event] = []
        """Events that are not printed yet."""
        self.ledger = Ledger()
        self._owners: dict[str, ScriptedClient] = {}
        self._script_world: ScriptWorld | None = None

    @property
    def script_world(self) -> ScriptWorld:
        """The world of the script.

        Raises:
            ScriptError: the script has not created one yet.
        """
        if self._script_world is None:
            raise ScriptError("a script begins with nodes")
        return self._script_world

    def _on_event(self, event: Event) -> None:
        self.events.append(event)

    # --- clients --------------------------------------------------------------------------------------

    def _client(self, words: Words) -> ScriptedClient:
        name = words.next()
        if name not in self.clients:
            raise ScriptError(f"no client {name}")
        return self.clients[name]

    def _open(self, words: Words, *, raw: bool = False) -> ScriptedClient:
        name = words.next()
        client = self.clients.get(name)
        if client is None:
            client = ScriptedClient(
                self.script_world.world, name, self._on_event, self.script_world.next_node
            )
            self.clients[name] = client
        client.roams = words.flag("roams")
        client.quiet = words.flag("quiet")
        client.heartbeat_inbox = words.after("heartbeats", client.heartbeat_inbox)
        to = words.after("to")
        if to:
            (node,) = self.script_world.find(to)
            if not node.serves:
                raise ScriptError(f"{to} accepts no clients")
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

    def _do_unresponsive(self, words: Words) -> None:
        self._client(words).answers = False

    def _do_responsive(self, words: Words) -> None:
        self._client(words).answers = True

    def _do_watch(self, words: Words) -> None:
        self._client(words).shows_heartbeats = True

    def _do_quit(self, words: Words) -> None:
        client = self._client(words)

        def answered(payload: bytes) -> None:
            client.report(_reply_text("closed", stan.decode_close_response(payload), payload))

        request = stan.CloseRequest(words.after("as", client.client_id))
        client.request(SUBJECTS["close"], stan.encode_close(request), answered)

    def _do_ping(self, words: Words) -> None:
        client = self._client(words)

        def answered(payload: bytes) -> None:
            client.report(_reply_text("pong", stan.decode_ping_response(payload), payload))

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
            client.report(_reply_text("done", decode[kind](data), data))

        client.request(SUBJECTS[kind], payload, answered)

    # --- subscriptions --------------------------------------------------------------------------------

    def _consumer(self, words: Words) -> Consumer:
        handle = words.next()
        if handle not in self.consumers:
            raise ScriptError(f"no subscription {handle}")
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
        start, start_seq, delta_ns = position(words)
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
            client.report(
                _reply_text(done, stan.decode_unsubscribe_response(payload), payload), consumer.handle
            )

        request = stan.UnsubscribeRequest(client_id, channel, inbox)
        client.request(SUBJECTS[kind], stan.encode_unsubscribe(request), answered)

    def _do_garbage(self, words: Words) -> None:
        consumer = self._consumer(words)
        self._owners[consumer.handle].send(nats.pub(consumer.ack_inbox.encode(), b"", b"dummy"))

    def _do_forget(self, words: Words) -> None:
        if words.flag("channel"):
            self.ledger.forget(words.next())
            return
        client, channel = self._client(words), words.next()
        durable = words.after("durable")

        def answered(payload: bytes) -> None:
            client.report(_reply_text("forgotten", stan.decode_unsubscribe_response(payload), payload))

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
            self.script_world.world.after(number * step_s, lambda: publish() if client.connected else None)


def _reply_text(done: str, error: str, payload: bytes) -> str:
    if error:
        return f"refused: {error}"
    return done if not payload else f"{done}, in {len(payload)} bytes"
