"""Fifteen facts of the wire that are most often got wrong, each on a real server. See docs/pitfalls.md."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from e2e.harness import STANCHION, Child, until
from e2e.ports import Guard, Ports
from e2e.wire import Wire

from node.client.streaming import Client, Message, Subscription, connect
from node.protocol import nats, streaming
from node.protocol.positions import StartPosition

COMMAND = str(STANCHION.with_name("nats-streaming-server"))
CLUSTER = "test-cluster"


class Msg(NamedTuple):
    subject: bytes
    sid: bytes
    reply: bytes
    payload: bytes


class Talk(Wire):
    """A connection of which every line counts."""

    def next(self) -> Msg | bytes:
        """The next message, or the next line that is none."""
        line = self.line()
        words = line.split(b" ")
        if words[0] != b"MSG":
            return line
        size = int(words[-1])
        while len(self._left) < size + 2:
            self._left += self._receive()
        payload, self._left = self._left[:size], self._left[size + 2 :]
        return Msg(words[1], words[2], words[3] if len(words) == 5 else b"", payload)

    def is_unresponsive(self) -> bool:
        """Nothing has come, and nothing does while the server answers another connection."""
        self.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            self._left += self._receive()
        self.socket.settimeout(10.0)
        return not self._left


class Server:
    """One process of the command."""

    def __init__(self, folder: Path, guard: Guard, ports: Ports, *flags: str) -> None:
        self.port, self.http = ports.take(), ports.take()
        command = [COMMAND, "-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.http), *flags]
        self.log = folder / f"{self.port}.log"
        self.child = Child("server", command, self.log, guard, cwd=folder)

    def ready(self) -> Server:
        until("the ready line", lambda: "Streaming Server is ready" in self.log.read_text())
        return self

    def page(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=5)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def talk(self) -> Talk:
        talk = Talk(self.port)
        talk.hello()
        return talk


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, guard: Guard, ports: Ports) -> Iterator[Start]:
    started: list[Server] = []

    def one(*flags: str) -> Server:
        started.append(Server(tmp_path_factory.mktemp("server"), guard, ports, *flags))
        return started[-1]

    yield one
    for server in started:
        server.child.end()


@pytest.fixture(scope="module")
def shared(start: Start) -> Server:
    """One server, in memory, for all that need nothing special. Use names of your own."""
    return start("-mc", "0").ready()


def run(server: Server, client_id: str, talk: Callable[[Client], Any]) -> None:
    """Run ``talk`` as a client."""

    async def session() -> None:
        async with connect([f"127.0.0.1:{server.port}"], CLUSTER, client_id) as client:
            await talk(client)

    trio.run(session)


async def has(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> None:
    """Wait until it is so."""
    with trio.move_on_after(timeout_s) as scope:
        while not condition():  # noqa: ASYNC110  # of messages that come in by callback
            await trio.sleep(0.005)
    assert not scope.cancelled_caught, what


def subscribe(talk: Talk, request: bytes, inbox: str) -> tuple[bytes, list[Msg]]:
    """Listen to ``inbox``, send a subscription request; its response and what was delivered before it."""
    talk.send(nats.sub(inbox.encode(), b"", b"7") + nats.sub(b"_INBOX.answer", b"", b"8"))
    talk.send(nats.pub(f"_STAN.sub.{CLUSTER}".encode(), b"_INBOX.answer", request))
    before = []
    while True:
        found = talk.next()
        assert isinstance(found, Msg), found
        if found.sid == b"8":
            talk.send(nats.unsub(b"8"))
            return found.payload, before
        before.append(found)


def published(
    talk: Talk, client: str, channel: str, data: bytes = b"x", *, conn_id: bytes | None = None
) -> str:
    """Publish and wait for the ack; its error."""
    conn_id = client.encode() if conn_id is None else conn_id
    message = streaming.PublishRequest(client, f"g{time.monotonic_ns()}", channel, "", data, conn_id)
    answer = talk.ask(f"_STAN.pub.{CLUSTER}.{channel}", streaming.encode_publish(message))
    return streaming.decode_pub_ack(answer).error


def test_1_nothing_but_ok_before_the_first_pong(start: Start, ports: Ports) -> None:
    """Pitfall 1: an INFO that is due waits for the PONG, the one line that clients read."""
    route = ports.take()
    server = start("-cid", "one", "--cluster", f"nats://127.0.0.1:{route}").ready()
    with Talk(server.port) as in_gap, Talk(server.port) as other:
        other.hello(b'{"verbose":false,"protocol":1}')
        in_gap.send(b'CONNECT {"verbose":false,"protocol":1}\r\n')
        start("-cid", "two", "--routes", f"nats://127.0.0.1:{route}").ready()
        assert other.line().startswith(b"INFO "), "there is another address to be told"
        assert in_gap.is_unresponsive()
        in_gap.send(nats.PING)
        assert in_gap.line() == b"PONG"
        assert in_gap.line().startswith(b"INFO ")


def test_2_the_first_line(shared: Server, start: Start) -> None:
    """Pitfall 2: at most 4,096 bytes; no nonce, max_payload always, auth_required only where it is so."""
    secured = start("--user", "ann", "--pass", "pw").ready()
    for server, is_required in ((shared, False), (secured, True)):
        with Talk(server.port) as talk:
            assert len(talk.info) + 2 <= 4096
            fields = json.loads(talk.info.removeprefix(b"INFO "))
        assert "nonce" not in fields
        assert fields["max_payload"] == 1024 * 1024
        assert fields.get("auth_required", False) is is_required


def test_3_errors_stand_in_quotes_and_headers_go_to_who_wants_them(shared: Server) -> None:
    """Pitfall 3: exact texts; an HMSG to a client that knows none would end its session."""
    with shared.talk() as talk:
        talk.send(b"SUB a..b 1\r\n")
        assert talk.line() == b"-ERR 'Invalid Subject'"
        assert talk.answers()
        talk.send(b"FOO\r\n")
        assert talk.rest() == b"-ERR 'Unknown Protocol Operation'\r\n"
    with shared.talk() as sender, Talk(shared.port) as plain, shared.talk() as modern:
        plain.hello(b'{"verbose":false}')
        for talk in (plain, modern):
            talk.send(nats.sub(b"p3", b"", b"1"))
            assert talk.answers()
        sender.send(nats.hpub(b"p3", b"", b"NATS/1.0\r\na: b\r\n\r\n", b"x"))
        assert plain.line() == b"MSG p3 1 1"
        assert modern.line() == b"HMSG p3 1 18 19"


def test_4_the_service_is_no_secret(shared: Server) -> None:
    """Pitfall 4: plain subscribers hear what clients ask of it; /subsz counts at least 7 once it is ready."""
    assert shared.page("/subsz")["num_subscriptions"] >= 7
    with shared.talk() as spy, shared.talk() as talk:
        spy.send(nats.sub(b"_STAN.>", b"", b"1"))
        assert spy.answers()
        talk.register("p4")
        assert published(talk, "p4", "p4.foo") == ""
        received = [spy.next() for _ in range(2)]
        assert [found.subject for found in received if isinstance(found, Msg)] == [
            f"_STAN.discover.{CLUSTER}".encode(),
            f"_STAN.pub.{CLUSTER}.p4.foo".encode(),
        ]


def test_5_fields_on_the_wire(shared: Server) -> None:
    """Pitfall 5: fields 2 and 3 of the response, 10 to 12 of the request; negative numbers; no bytes."""
    with shared.talk() as talk:
        request = streaming.ConnectRequest("p5", "_INBOX.hb.p5", 1, b"p5", -5, -7)
        answer = talk.ask(f"_STAN.discover.{CLUSTER}", streaming.encode_connect(request))
        session = streaming.decode_connect_response(answer)
        assert (session.ping_interval_s, session.ping_max_out) == (-5, -7)
        for number in range(3):
            assert published(talk, "p5", "p5.foo", b"%d" % number) == ""
        # clientID 1, subject 2, inbox 4, maxInFlight 5, ackWaitInSecs 6, startPosition 10, startSequence 11
        raw = b"\x0a\x02p5\x12\x06p5.foo\x22\x05p5.in\x28\x0a\x30\x1e\x50\x03\x58\x02"
        response, early = subscribe(talk, raw, "p5.in")
        assert response[:1] == b"\x12", "the ack inbox is field 2, and nothing is before it"
        assert early == []
        first = talk.next()
        assert isinstance(first, Msg)
        assert streaming.decode_message(first.payload).seq == 2
        talk.next()
        response, _ = subscribe(talk, b"\x0a\x02p5\x12\x06p5.foo\x22\x05p5.in\x28\x0a\x30\x00", "p5.in")
        assert response[:1] == b"\x1a", "the error is field 3"
        assert talk.ask(session.ping_requests, streaming.encode_ping(streaming.PingRequest(b"p5"))) == b""
        assert talk.ask(session.close_requests, streaming.encode_close(streaming.CloseRequest("p5"))) == b""


def test_6_order(shared: Server) -> None:
    """Pitfall 6: response before message; message before the publish's ack; acks before a close count."""
    with shared.talk() as talk:
        session = talk.register("p6")
        assert published(talk, "p6", "p6") == ""
        request = streaming.SubscriptionRequest(
            "p6", "p6", "", "p6.in", 10, 30, "d", StartPosition.FIRST, 0, 0
        )
        response, early = subscribe(talk, streaming.encode_subscription(request), "p6.in")
        assert early == []
        acks = streaming.decode_subscription_response(response).ack_inbox
        assert isinstance(first := talk.next(), Msg)
        assert first.subject == b"p6.in"
        message = streaming.PublishRequest("p6", "g2", "p6", "", b"y", b"p6")
        talk.send(nats.sub(b"p6.acks", b"", b"9"))
        talk.send(
            nats.pub(f"{session.pub_prefix}.p6".encode(), b"p6.acks", streaming.encode_publish(message))
        )
        found = [talk.next(), talk.next()]
        assert [each.sid for each in found if isinstance(each, Msg)] == [b"7", b"9"]
        close = streaming.UnsubscribeRequest("p6", "p6", acks)
        talk.send(
            b"".join(
                nats.pub(acks.encode(), b"", streaming.encode_ack(streaming.Ack("p6", seq))) for seq in (1, 2)
            )
            + nats.pub(session.sub_close_requests.encode(), b"p6.acks", streaming.encode_unsubscribe(close))
        )
        assert isinstance(closed := talk.next(), Msg)
        assert (closed.sid, closed.payload) == (b"9", b"")
        assert published(talk, "p6", "p6", b"z") == ""
        _, early = subscribe(talk, streaming.encode_subscription(request), "p6.in")
        assert isinstance(after := talk.next(), Msg)
        assert streaming.decode_message(after.payload).seq == 3, "what was acknowledged doesn't come again"


def test_7_a_client_id_that_is_taken(shared: Server) -> None:
    """Pitfall 7: 500 ms are waited out though nobody listens any more; a third is refused at once."""

    def ask(talk: Talk, conn_id: bytes) -> None:
        request = streaming.ConnectRequest("p7", f"_INBOX.hb.{conn_id.decode()}", 1, conn_id, 5, 3)
        inbox = b"_INBOX.p7." + conn_id
        talk.send(nats.sub(inbox, b"", b"1"))
        talk.send(nats.pub(f"_STAN.discover.{CLUSTER}".encode(), inbox, streaming.encode_connect(request)))

    def answer(talk: Talk) -> str:
        found = talk.next()
        assert isinstance(found, Msg)
        return streaming.decode_connect_response(found.payload).error

    with shared.talk() as first:
        ask(first, b"first")
        assert answer(first) == ""
    with shared.talk() as second, shared.talk() as third:
        began_s = time.monotonic()
        ask(second, b"second")
        assert second.answers()
        ask(third, b"third")
        assert answer(third) == "stan: clientID already registered"
        refused_s = time.monotonic() - began_s
        assert answer(second) == ""
        taken_s = time.monotonic() - began_s
    assert refused_s < taken_s
    assert taken_s >= 0.5


def test_8_the_eleventh_miss(start: Start) -> None:
    """Pitfall 8: removed with miss 11, not earlier; the ping's error has no prefix."""
    server = start("-hbi", "100ms", "-hbt", "50ms").ready()
    with server.talk() as talk:
        talk.send(nats.sub(b"_INBOX.hb.p8", b"", b"5"))
        session = talk.register("p8")
        until("the removal", lambda: not server.page("/streaming/serverz")["clients"])
        beats = 0
        talk.send(nats.PING)
        while isinstance(talk.next(), Msg):
            beats += 1
        ping = streaming.encode_ping(streaming.PingRequest(b"p8"))
        error = streaming.decode_ping_response(talk.ask(session.ping_requests, ping))
        assert beats == 11
        assert error == "client has been replaced or is no longer registered"


def test_9_who_publishes(start: Start) -> None:
    """Pitfall 9: a connection ID counts alone; two texts have no prefix."""
    server = start("-mc", "1", "-msu", "1").ready()
    with server.talk() as talk:
        talk.register("p9")
        assert published(talk, "somebody", "p9", conn_id=b"p9") == ""
        assert published(talk, "p9", "p9", conn_id=b"somebody") == "stan: invalid publish request"
        assert published(talk, "p9", "p9", conn_id=b"") == ""
        assert published(talk, "p9", "other") == "too many channels"
        texts = []
        for _ in range(2):
            request = streaming.SubscriptionRequest(
                "p9", "p9", "", "p9.in", 10, 30, "", StartPosition.NEW_ONLY, 0, 0
            )
            response, _ = subscribe(talk, streaming.encode_subscription(request), "p9.in")
            texts.append(streaming.decode_subscription_response(response).error)
        assert texts == ["", "too many subscriptions per channel"]


def test_10_where_a_subscription_starts(shared: Server) -> None:
    """Pitfall 10: said once. Ignored when a durable resumes, and when a member joins a group."""

    async def talk(client: Client) -> None:
        got: list[Message] = []
        durable = await client.subscribe("p10", got.append, durable="d", start=StartPosition.FIRST)
        for number in range(3):
            await client.publish("p10", b"%d" % number)
        await has(lambda: len(got) == 3, "all three")
        await durable.close()
        await client.publish("p10", b"3")
        await client.subscribe("p10", got.append, durable="d", start=StartPosition.FIRST)
        await has(lambda: len(got) == 4, "the one it missed")
        assert [message.seq for message in got] == [1, 2, 3, 4]
        first: list[Message] = []
        second: list[Message] = []
        await client.subscribe("p10", first.append, queue="q", start=StartPosition.NEW_ONLY)
        await client.subscribe("p10", second.append, queue="q", start=StartPosition.FIRST)
        await client.publish("p10", b"4")
        await has(lambda: first or second, "the new one")
        assert [message.seq for message in first + second] == [5]

    run(shared, "p10", talk)


def test_11_redelivery_has_no_limit(shared: Server) -> None:
    """Pitfall 11: while stalled, whatever max in flight says, again and again; nothing new in between."""

    async def talk(client: Client) -> None:
        got: list[Message] = []
        sub = await client.subscribe("p11", got.append, max_in_flight=1, ack_wait_s=1, manual_ack=True)
        await client.publish("p11", b"1")
        await client.publish("p11", b"2")
        await has(lambda: len(got) == 4, "three redeliveries")
        assert [message.seq for message in got] == [1] * 4
        assert [message.redelivery_count for message in got] == [0, 1, 2, 3]
        gaps = [after.received_s - before.received_s for before, after in itertools.pairwise(got)]
        assert all(gap > 0.9 for gap in gaps), "never closer than AckWait less 100 ms"
        sub.ack(1)
        await has(lambda: got[-1].seq == 2, "the next")

    run(shared, "p11", talk)


def test_12_who_is_next_in_a_queue_group(shared: Server) -> None:
    """Pitfall 12: whoever has fewest unacknowledged; of 2,048 each of five gets more than 400."""

    async def talk(client: Client) -> None:
        share: Counter[int] = Counter()

        def member(number: int) -> Callable[[Message], None]:
            return lambda _message: share.update([number])

        for number in range(5):
            await client.subscribe("p12", member(number), queue="q")
        answers: list[str] = []
        for number in range(2048):
            client.publish_async("p12", b"%d" % number, answers.append)
        await has(lambda: share.total() == 2048, "all messages", 30)
        assert min(share.values()) > 400, share
        assert set(answers) == {""}

    run(shared, "p12", talk)


def test_13_a_member_leaves(shared: Server) -> None:
    """Pitfall 13: what it held goes to others at once, whatever their max in flight; any member may ack."""

    async def talk(client: Client) -> None:
        leaver: list[Message] = []
        stayer: list[Message] = []
        options: dict[str, Any] = {"queue": "q", "ack_wait_s": 60, "manual_ack": True}
        leaving = await client.subscribe("p13", leaver.append, max_in_flight=10, **options)
        for number in range(5):
            await client.publish("p13", b"%d" % number)
        await has(lambda: len(leaver) == 5, "all")
        staying = await client.subscribe("p13", stayer.append, max_in_flight=1, **options)
        staying.ack(1)  # on its own inbox, what another member holds
        await leaving.close()
        left_s = trio.current_time()
        await has(lambda: len(stayer) == 4, "the rest")
        assert [message.seq for message in stayer] == [2, 3, 4, 5]
        assert all(message.redelivered for message in stayer)
        assert trio.current_time() - left_s < 5, "not after its AckWait of 60 s"

    run(shared, "p13", talk)


def test_14_the_last_member_of_a_durable_group(shared: Server) -> None:
    """Pitfall 14: close keeps the group, the next gets all that is pending at once; unsubscribe ends it."""

    async def talk(client: Client) -> None:
        async def join(got: list[Message], **more: Any) -> Subscription:
            return await client.subscribe(
                "p14", got.append, queue="q", durable="d", ack_wait_s=60, manual_ack=True, **more
            )

        before: list[Message] = []
        after: list[Message] = []
        member = await join(before)
        for number in range(3):
            await client.publish("p14", b"%d" % number)
        await has(lambda: len(before) == 3, "all")
        await member.close()
        (shown,) = shared.page("/streaming/channelsz?channel=p14&subs=1")["subscriptions"]
        assert (shown["queue_name"], shown.get("durable_name", ""), shown["is_offline"]) == ("d:q", "", True)
        member = await join(after)
        await has(lambda: len(after) == 3, "what was pending")
        assert all(message.redelivered for message in after)
        await member.unsubscribe()
        assert shared.page("/streaming/channelsz?channel=p14&subs=1").get("subscriptions", []) == []
        anew: list[Message] = []
        await join(anew, start=StartPosition.LAST_RECEIVED)
        await has(lambda: anew, "the last one, in a group made anew")
        assert [(message.seq, message.redelivered) for message in anew] == [(3, False)]

    run(shared, "p14", talk)


def test_15_it_comes_and_goes_at_once(start: Start, tmp_path: Path, guard: Guard) -> None:
    """Pitfall 15: the port is bound before anything is loaded; free again at once after any end.

    How soon exactly is for a machine that does nothing else: ``bench/``.
    """
    server = start().ready()
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 0)):
        with server.talk():  # a connection that stands doesn't keep the port
            server.child.signal(number)
            asked_s = time.monotonic()
            assert server.child.wait(5) == status
            assert time.monotonic() - asked_s < 2.5
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", server.port))
        again = [COMMAND, "-a", "127.0.0.1", "-p", str(server.port), "-m", str(server.http)]
        server.log.write_text("")
        server.child = Child("server", again, server.log, guard, cwd=tmp_path)
        server.ready()


@pytest.mark.parametrize(
    "flags",
    [
        "-p {port} -m {http}",
        "--port {port} --http_port {http} -SDV -DV",
        "-cid x -mc 5 -log {log} -p {port}",
        "-l {log} -p {port} --store FILE --dir {data}",
        "-a 127.0.0.1 -p {port} --cluster nats://127.0.0.1:{route} --routes nats://127.0.0.1:{route}",
        "-user ann -pass pw -p {port}",
        "--auth tok -p {port} -cid=x",
    ],
)
def test_flags_of_the_clients_suites(
    start: Start, ports: Ports, tmp_path: Path, guard: Guard, flags: str
) -> None:
    """One dash or two: a server that their suites start comes up."""
    port = ports.take()
    words = flags.format(
        port=port, http=ports.take(), route=ports.take(), log=tmp_path / "log.txt", data=tmp_path / "data"
    )
    child = Child("server", [COMMAND, *words.split()], tmp_path / "out.txt", guard)
    try:
        until("a listening server", lambda: _listens(port))
        assert child.is_running
    finally:
        child.end()


def _listens(port: int) -> bool:
    try:
        Wire(port).socket.close()
    except ConnectionRefusedError:
        return False
    return True
