"""One client connection: bytes in, bytes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest

from node.protocol.nats import ClientParser, Info, Msg, Reply
from node.server.auth import Authenticator, Permissions, User
from node.server.connection import PUBLISH_COST, STEP_COST, SUBSCRIPTION_COST, Connection, Phase
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.interest_rate import BURST, CHANGES_PER_S
from node.server.routing import Routing


class Service:
    """Counts the events reported to it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def read_done(self, connection: Connection) -> None:
        self.events.append(("read_done", connection.cid))

    def drained(self, connection: Connection) -> None:
        self.events.append(("drained", connection.cid))

    def closed(self, connection: Connection) -> None:
        self.events.append(("closed", connection.cid))


class World:
    """A node with connections but without sockets."""

    def __init__(self, **options: Any) -> None:
        self.now = 1000.0
        self.ready = True
        self.service = Service()
        self.routing = Routing("n1", send=lambda peer, value: None)
        self.context = Context(
            routing=self.routing,
            service=self.service,
            info=ServerInfo("ID", "n1", "0.0.0.0", 4222, **options.pop("info", {})),
            clock=lambda: self.now,
            node_ready=lambda: self.ready,
            limits=ClientLimits(**options.pop("limits", {})),
            **options,
        )
        self.count = 0

    def accept(self) -> Client:
        self.count += 1
        return Client(Connection(self.context, cid=self.count, epoch=self.count, address=("127.0.0.1", 5)))

    def client(self, **options: Any) -> Client:
        """Return a client that has connected like the client libraries."""
        client = self.accept()
        client.read()
        assert client.says(connect(**options), b"PING\r\n") == b"PONG\r\n"
        return client


class Client:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def read(self) -> bytes:
        data = b"".join(self.connection.take())
        self.connection.sent(len(data))
        return data

    def says(self, *data: bytes) -> bytes:
        self.connection.received(b"".join(data))
        return self.read()


def connect(**options: Any) -> bytes:
    options = {"verbose": False, "pedantic": False, "protocol": 1, **options}
    return b"CONNECT " + json.dumps(options).encode() + b"\r\n"


@pytest.fixture
def world() -> World:
    return World()


# --- INFO -------------------------------------------------------------------------------------------


def info_of(line: bytes) -> dict[str, Any]:
    assert line.startswith(b"INFO {")
    assert line.endswith(b"}\r\n")
    assert len(line) <= 4096
    found: dict[str, Any] = json.loads(line[5:])
    return found


def test_info_comes_first_with_the_fields_that_clients_need(world: World) -> None:
    """NET-01, NET-03, NET-04, pitfall 2: no nonce, max_payload always, auth_required only if so."""
    fields = info_of(world.accept().read())
    assert fields["server_id"] == "ID"
    assert fields["server_name"] == "n1"
    assert fields["version"].count(".") == 2
    assert fields["proto"] == 1
    assert (fields["host"], fields["port"]) == ("0.0.0.0", 4222)
    assert fields["max_payload"] == 1048576
    assert (fields["client_id"], fields["client_ip"]) == (1, "127.0.0.1")
    assert fields["headers"] is True
    assert not {"nonce", "auth_required", "tls_required", "tls_verify", "ldm", "connect_urls"} & set(fields)
    assert info_of(world.accept().read())["client_id"] == 2


def test_auth_required_is_announced() -> None:
    """NET-04."""
    world = World(authenticator=Authenticator(token="t"))
    assert info_of(world.accept().read())["auth_required"] is True


def test_info_stays_short_with_many_nodes(world: World) -> None:
    """NET-02: 20 nodes fit completely; of a thousand as many as the Node.js client can read."""
    world.context.connect_urls = tuple(f"node-{number:03}.stanchion.example.org:4222" for number in range(20))
    assert len(info_of(world.accept().read())["connect_urls"]) == 20
    world.context.connect_urls *= 50
    assert 50 < len(info_of(world.accept().read())["connect_urls"]) < 200


# --- CONNECT and the gap ----------------------------------------------------------------------------


def test_connect_and_ping_are_answered_by_pong_alone(world: World) -> None:
    """NET-05."""
    client = world.accept()
    client.read()
    assert client.says(connect() + b"PING\r\n") == b"PONG\r\n"
    assert client.connection.phase is Phase.OPEN


def test_only_ok_is_sent_in_the_gap(world: World) -> None:
    """NET-07, pitfall 1: an INFO waits for the first PONG, and no PING is sent."""
    client = world.accept()
    client.read()
    assert client.says(connect(verbose=True)) == b"+OK\r\n"
    world.context.connect_urls = ("a:1",)
    client.connection.announce()
    world.now += 10
    client.connection.on_deadline()
    assert client.read() == b""
    answer = client.says(b"PING\r\n")
    assert answer.startswith(b"PONG\r\nINFO {")
    assert info_of(answer[6:])["connect_urls"] == ["a:1"]
    assert client.says(b"PING\r\n") == b"PONG\r\n"


def test_no_ping_in_the_gap_however_short_the_interval() -> None:
    """NET-07; a client that never pings is sent PINGs once no library can be waiting for a PONG."""
    world = World(limits={"ping_interval_s": 1.0})
    client = world.accept()
    client.read()
    client.says(connect())
    for _ in range(29):
        world.now = client.connection.deadline_s()
        client.connection.on_deadline()
        assert client.read() == b""
    world.now = client.connection.deadline_s()
    client.connection.on_deadline()
    assert client.read() == b"PING\r\n"


def test_info_is_not_sent_to_clients_that_do_not_know_it(world: World) -> None:
    old, unresponsive = world.client(protocol=0), world.accept()
    unresponsive.read()
    for client in (old, unresponsive):
        client.connection.announce()
        assert client.read() == b""
    assert unresponsive.says(connect(), b"PING\r\n").startswith(b"PONG\r\nINFO ")


def test_lame_duck_is_announced_at_once(world: World) -> None:
    """NET-37: the announcement."""
    client = world.client()
    world.context.lame_duck = True
    client.connection.announce()
    assert info_of(client.read())["ldm"] is True


@pytest.mark.parametrize("protocol", [-1, 2, 10**30])
def test_an_unknown_client_protocol_is_refused(world: World, protocol: int) -> None:
    """NET-39."""
    client = world.accept()
    client.read()
    assert client.says(connect(protocol=protocol)) == b"-ERR 'invalid client protocol'\r\n"
    assert client.connection.closed


def test_no_responders_needs_headers(world: World) -> None:
    """NET-31."""
    client = world.accept()
    client.read()
    expected = b"-ERR 'no responders requires headers support'\r\n"
    assert client.says(connect(no_responders=True)) == expected
    assert client.connection.closed


@pytest.mark.parametrize("options", [b"{", b"[]", b"", b'{"verbose":1}', b'{"name":7}', b'{"protocol":1.0}'])
def test_invalid_options_close_the_connection(world: World, options: bytes) -> None:
    client = world.accept()
    client.read()
    assert client.says(b"CONNECT " + options + b"\r\nPING\r\n") == b""
    assert client.connection.closed
    assert client.connection.close_reason


def test_null_options_mean_the_default_and_unknown_ones_nothing(world: World) -> None:
    client = world.client(name=None, lang=None, sig=None, something=[1])
    assert client.connection.options.name == ""
    assert client.connection.options.echo is True


def test_connect_again_replaces_the_options(world: World) -> None:
    client = world.client(name="a")
    assert client.says(connect(name="b", verbose=True)) == b"+OK\r\n"
    assert client.connection.options.name == "b"
    assert client.says(b"SUB a 1\r\n") == b"+OK\r\n"


# --- operations -------------------------------------------------------------------------------------


def test_verbose_answers_every_operation_but_ping(world: World) -> None:
    """NET-06."""
    client = world.client(verbose=False)
    assert client.says(connect(verbose=True, pedantic=False, headers=True)) == b"+OK\r\n"
    assert client.says(b"SUB a 1\r\n") == b"+OK\r\n"
    assert client.says(b"PUB b 1\r\nx\r\n") == b"+OK\r\n"
    assert client.says(b"HPUB b 12 13\r\nNATS/1.0\r\n\r\nx\r\n") == b"+OK\r\n"
    assert client.says(b"UNSUB 1\r\n") == b"+OK\r\n"
    assert client.says(b"UNSUB 77\r\n") == b"+OK\r\n"
    assert client.says(b"PING\r\n") == b"PONG\r\n"
    assert client.says(b"PONG\r\n") == b""


def test_without_a_connect_the_defaults_are_verbose_and_pedantic(world: World) -> None:
    client = world.accept()
    client.read()
    assert client.says(b"SUB a 1\r\n") == b"+OK\r\n"
    assert client.says(b"PUB a.* 0\r\n\r\n") == b"-ERR 'Invalid Publish Subject'\r\n"
    assert client.says(b"PUB a 0\r\n\r\n") == b"+OK\r\nMSG a 1 0\r\n\r\n"


def test_lower_case_and_double_spaces(world: World) -> None:
    """NET-08, NET-09, NET-11."""
    client = world.client()
    assert client.says(b"sub a  1\r\npub a  3\r\nabc\r\nping\r\n") == b"MSG a 1 3\r\nabc\r\nPONG\r\n"
    assert client.says(b"PUB\ta\t0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"


def test_bytes_may_be_cut_anywhere(world: World) -> None:
    """NET-10."""
    client = world.client()
    said = b"SUB a 1\r\nPUB a r 5\r\nhe\r\nl\r\nPING\r\nUNSUB 1 2\r\nPUB a 0\r\n\r\nPUB a 0\r\n\r\n"
    for byte in said:
        client.connection.received(bytes([byte]))
    assert client.read() == b"MSG a 1 r 5\r\nhe\r\nl\r\nPONG\r\nMSG a 1 0\r\n\r\n"


def test_max_payload_is_delivered_and_one_more_closes() -> None:
    """NET-12."""
    world = World(limits={"max_payload": 1000})
    client = world.client()
    assert client.says(b"SUB a 1\r\nPUB a 1000\r\n", b"x" * 1000, b"\r\n") == b"MSG a 1 1000\r\n%b\r\n" % (
        b"x" * 1000
    )
    assert client.says(b"PING\r\nPUB a 1001\r\n") == b"PONG\r\n-ERR 'Maximum Payload Violation'\r\n"
    assert client.connection.closed


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"NONSENSE\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a 1\r\nxyz", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"SUB " + b"x" * 5000, b"-ERR 'maximum control line exceeded'\r\n"),
        (b"PUB a\r\n", b""),
    ],
)
def test_violations_close_with_the_prescribed_error(world: World, said: bytes, answer: bytes) -> None:
    """NET-13, NET-14."""
    client = world.client()
    assert client.says(said) == answer
    assert client.connection.closed
    assert client.says(b"PING\r\n") == b""


@pytest.mark.parametrize("subject", [b"a..b", b".a", b"a.", b"a.>.b"])
def test_an_invalid_subject_is_reported_without_other_effects(world: World, subject: bytes) -> None:
    """NET-17."""
    client = world.client()
    assert client.says(b"SUB " + subject + b" 1\r\nPING\r\n") == b"-ERR 'Invalid Subject'\r\nPONG\r\n"
    assert not client.connection.subscriptions


def test_a_pedantic_publish_to_a_pattern_is_reported_and_routed(world: World) -> None:
    """NET-18; without pedantic it is dropped without an error."""
    listener, pedantic, lax = world.client(), world.client(pedantic=True), world.client()
    listener.says(b"SUB a.* 1\r\n")
    assert pedantic.says(b"PUB a.* 1\r\nx\r\n") == b"-ERR 'Invalid Publish Subject'\r\n"
    assert listener.read() == b"MSG a.* 1 1\r\nx\r\n"
    assert lax.says(b"PUB a.* 1\r\nx\r\nPUB a..b 0\r\n\r\nPING\r\n") == b"PONG\r\n"
    assert listener.read() == b""


def test_echo(world: World) -> None:
    """NET-19."""
    client, quiet = world.client(), world.client(echo=False)
    said = b"SUB a 1\r\nPUB a 1\r\nx\r\n"
    assert client.says(said) == b"MSG a 1 1\r\nx\r\n"
    assert quiet.says(said) == b""
    assert client.read() == b"MSG a 1 1\r\nx\r\n"


def test_a_sid_in_use_is_ignored(world: World) -> None:
    """NET-26."""
    client = world.client()
    client.says(b"SUB a 1\r\nSUB b 1\r\n")
    assert client.says(b"PUB b 1\r\nx\r\nPUB a 1\r\ny\r\n") == b"MSG a 1 1\r\ny\r\n"


def test_unsub(world: World) -> None:
    """NET-23, NET-24, NET-25: at once; after so many; at once if so many were delivered."""
    client = world.client()
    publish = b"PUB a 0\r\n\r\n"
    message = b"MSG a 1 0\r\n\r\n"
    assert client.says(b"SUB a 1\r\nUNSUB 1\r\n", publish) == b""
    assert client.says(b"SUB a 1\r\nUNSUB 1 5\r\n", publish * 7) == message * 5
    assert client.says(b"SUB a 1\r\n", publish * 5, b"UNSUB 1 5\r\n", publish) == message * 5
    assert client.says(b"SUB a 1\r\n", publish * 3, b"UNSUB 1 5\r\n", publish * 5) == message * 5
    assert client.says(b"SUB a 1\r\nUNSUB 1 0\r\n", publish) == b""
    assert client.says(b"SUB a 1\r\n", publish) == message, "and the sid may be used again"
    assert world.routing.subscription_count == 1


def test_pong_means_that_everything_before_is_done(world: World) -> None:
    """NET-28."""
    ann, bob = world.client(), world.client()
    assert ann.says(b"SUB a 1\r\nPING\r\n") == b"PONG\r\n"
    bob.says(b"PUB a 0\r\n\r\n")
    assert ann.read() == b"MSG a 1 0\r\n\r\n"


def test_headers_reach_only_clients_that_enabled_them(world: World) -> None:
    """NET-29, pitfall 3."""
    able, unable, publisher = world.client(headers=True), world.client(), world.client(headers=True)
    able.says(b"SUB a 1\r\n")
    unable.says(b"SUB a 1\r\n")
    publisher.says(b"HPUB a r 20 22\r\nNATS/1.0\r\nA: 123\r\n\r\nhi\r\n"[:9])
    publisher.says(b"HPUB a r 20 22\r\nNATS/1.0\r\nA: 123\r\n\r\nhi\r\n"[9:])
    assert able.read() == b"HMSG a 1 r 20 22\r\nNATS/1.0\r\nA: 123\r\n\r\nhi\r\n"
    assert unable.read() == b"MSG a 1 r 2\r\nhi\r\n"


def test_headers_switched_off() -> None:
    world = World(info={"headers": False})
    client = world.accept()
    assert info_of(client.read())["headers"] is False
    client.says(connect(headers=True))
    assert client.connection.options.headers is False
    assert client.says(b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n") == b"-ERR 'Unknown Protocol Operation'\r\n"


def test_no_responders_are_reported_at_once(world: World) -> None:
    """NET-30: on the reply subject, by its sid; not if there is a subscriber, and not to other clients."""
    client = world.client(headers=True, no_responders=True)
    other = world.client(headers=True, no_responders=True)
    other.says(b"SUB _INBOX.> 5\r\n")
    answer = client.says(b"SUB _INBOX.x.* 7\r\nPUB nobody _INBOX.x.1 0\r\n\r\n")
    assert answer == b"HMSG _INBOX.x.1 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    assert other.read() == b""
    other.says(b"SUB some 1\r\n")
    assert client.says(b"PUB some _INBOX.x.2 0\r\n\r\n") == b""
    assert client.says(b"PUB none 0\r\n\r\n") == b""
    deaf = world.client(headers=True)
    assert deaf.says(b"SUB _INBOX.y 1\r\nPUB nobody _INBOX.y 0\r\n\r\n") == b""


def test_reply_subjects_are_passed_on(world: World) -> None:
    """NET-27."""
    client = world.client()
    assert client.says(b"SUB a 1\r\nPUB a _INBOX.q?!.2 1\r\nx\r\n") == b"MSG a 1 _INBOX.q?!.2 1\r\nx\r\n"


def test_order_is_kept(world: World) -> None:
    """NET-38."""
    ann, bob = world.client(), world.client()
    ann.says(b"SUB a 1\r\n")
    bob.says(b"".join(b"PUB a %d\r\n%d\r\n" % (len(str(n)), n) for n in range(10_000)))
    while bob.connection.resting:
        bob.connection.go_on()
    parser = ClientParser()
    parser.feed(ann.read())
    got: list[Reply] = []
    while more := parser.ops():
        got += more
    assert [message.payload for message in got if isinstance(message, Msg)] == [
        b"%d" % n for n in range(10_000)
    ]


def test_max_subscriptions() -> None:
    world = World(limits={"max_subscriptions": 2})
    client = world.client()
    assert client.says(b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n") == b"-ERR 'maximum subscriptions exceeded'\r\n"
    assert client.says(b"UNSUB 1\r\nSUB c 3\r\nPING\r\n") == b"PONG\r\n"


# --- the service ------------------------------------------------------------------------------------


def test_the_service_is_notified_once_per_buffer(world: World) -> None:
    client = world.client()
    reachable: list[tuple[Any, ...]] = []
    world.routing.serve(b"_STAN.pub.c.>", lambda *args: reachable.append(args))
    world.service.events.clear()
    assert client.says(b"PUB _STAN.pub.c.x r 1\r\n1\r\nPUB _STAN.pub.c.x r 1\r\n2\r\n") == b""
    assert reachable == [(client.connection, b"_STAN.pub.c.x", b"r", payload) for payload in (b"1", b"2")]
    assert world.service.events == [("read_done", 1)]
    client.says(b"PUB _STAN.pub.c.x r 1\r\n3\r\nNONSENSE\r\n")
    assert len(reachable) == 3, "what was complete before a violation counts"
    assert world.service.events == [("read_done", 1), ("closed", 1), ("read_done", 1)]


def test_counters(world: World) -> None:
    client = world.client(name="app", lang="go", version="1.22.0")
    connection = client.connection
    client.says(b"SUB a 1\r\nPUB a 3\r\nabc\r\n")
    client.says(connect(verbose=True) + b"PUB b 2\r\nab\r\nHPUB b 12 13\r\nNATS/1.0\r\n\r\nx\r\n")
    assert (connection.in_msgs, connection.in_bytes) == (3, 18)
    assert (connection.out_msgs, connection.out_bytes) == (1, 3)
    assert connection.last_activity_s == world.now
    assert connection.started_s == 1000


# --- authentication ---------------------------------------------------------------------------------


def test_wrong_credentials_are_refused_with_the_prescribed_error() -> None:
    """AUT-01."""
    world = World(authenticator=Authenticator([User("ann", "x")]))
    client = world.accept()
    client.read()
    answer = client.says(connect(user="ann", **{"pass": "y"}), b"PING\r\n")
    assert answer == b"-ERR 'Authorization Violation'\r\n"
    assert client.connection.closed


def test_correct_credentials_are_accepted() -> None:
    """AUT-02."""
    world = World(authenticator=Authenticator([User("ann", "x")], token="t"))
    ann = world.client(user="ann", **{"pass": "x"})
    assert ann.connection.identity is not None
    assert ann.connection.identity.name == "ann"
    world.client(auth_token="t")


@pytest.mark.parametrize("said", [b"PING\r\n", b"SUB a 1\r\n", b"P", b"GET / HTTP/1.1\r\n", b"\r\n"])
def test_connect_must_come_first_if_credentials_are_required(said: bytes) -> None:
    """AUT-03: any other operation is refused at its first byte."""
    world = World(authenticator=Authenticator(token="t"))
    client = world.accept()
    client.read()
    assert client.says(said) == b"-ERR 'Authorization Violation'\r\n"
    assert client.connection.closed


def test_no_connect_in_time() -> None:
    """AUT-04: two seconds from the end of the TLS handshake."""
    world = World(authenticator=Authenticator(token="t"))
    client = world.accept()
    client.read()
    world.now += 1
    client.connection.secured()
    assert client.connection.deadline_s() == world.now + 2
    world.now += 1.9
    client.connection.on_deadline()
    assert not client.connection.closed
    world.now += 0.1
    client.connection.on_deadline()
    assert client.read() == b"-ERR 'Authentication Timeout'\r\n"
    assert client.connection.closed
    assert client.connection.deadline_s() == float("inf")


def test_without_authentication_connect_has_no_timeout(world: World) -> None:
    client = world.accept()
    client.read()
    assert client.connection.deadline_s() == world.now + 120


def test_operations_wait_in_order_for_a_password_check() -> None:
    """AUT-07: bcrypt runs in a thread; operations sent in the meantime wait."""
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    world = World(authenticator=Authenticator([User("ann", hashed)]))
    right, wrong = world.accept(), world.accept()
    for client, password in ((right, "x"), (wrong, "y")):
        client.read()
        said = b"SUB a 1\r\nPING\r\nPUB a 0\r\n\r\n"
        assert client.says(connect(user="ann", **{"pass": password}), said) == b""
        assert client.connection.phase is Phase.CHECKING
        assert not client.connection.reading
        assert client.says(b"PING\r\n") == b""
        assert client.connection.deadline_s() == world.now + 120, "the time for CONNECT is over"
        check = client.connection.check
        assert check is not None
        client.connection.checked(check.run())
    assert right.read() == b"PONG\r\nMSG a 1 0\r\n\r\nPONG\r\n"
    assert right.connection.reading
    assert wrong.read() == b"-ERR 'Authorization Violation'\r\n"
    wrong.connection.checked(None)
    assert wrong.read() == b""


def test_a_user_removed_during_its_password_check_is_refused() -> None:
    """The configuration was reloaded during the comparison: the old one no longer counts."""
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    for users, may in (([User("ann", hashed)], True), ([User("ann", "another")], False), ([], True)):
        world = World(authenticator=Authenticator([User("ann", hashed)]))
        client = world.accept()
        client.says(connect(user="ann", **{"pass": "right"}))
        check = client.connection.check
        assert check is not None
        world.context.authenticator = Authenticator(users)
        client.connection.checked(check.run())
        assert client.connection.closed is not may


def test_a_second_connect_is_checked_too() -> None:
    hashed = bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    world = World(authenticator=Authenticator([User("ann", hashed), User("bob", "y")]))
    client = world.client(user="bob", **{"pass": "y"})
    assert client.says(connect(user="ann", **{"pass": "x"}), b"PING\r\n") == b""
    check = client.connection.check
    assert check is not None
    client.connection.checked(check.run())
    assert client.read() == b"PONG\r\n"
    assert client.connection.identity is not None
    assert client.connection.identity.name == "ann"


# --- permissions ------------------------------------------------------------------------------------


def permitted(**permissions: Any) -> World:
    return World(
        authenticator=Authenticator([User("ann", "x", Permissions(**permissions)), User("bob", "y")])
    )


def test_a_denied_publish_is_reported_and_dropped() -> None:
    """AUT-05."""
    world = permitted(publish_allow=(b"a.>",), publish_deny=(b"a.b",))
    ann, bob = world.client(user="ann", **{"pass": "x"}), world.client(user="bob", **{"pass": "y"})
    bob.says(b"SUB > 1\r\n")
    answer = ann.says(b"PUB a.b 0\r\n\r\nPUB c 0\r\n\r\nPUB a.c 0\r\n\r\nPING\r\n")
    assert answer == (
        b"-ERR 'Permissions Violation for Publish to \"a.b\"'\r\n"
        b"-ERR 'Permissions Violation for Publish to \"c\"'\r\nPONG\r\n"
    )
    assert bob.read() == b"MSG a.c 1 0\r\n\r\n"


def test_a_denied_subscribe_is_reported_and_ignored() -> None:
    """AUT-06."""
    world = permitted(subscribe_allow=(b"a.*",), subscribe_deny=(b"a.b",))
    ann, bob = world.client(user="ann", **{"pass": "x"}), world.client(user="bob", **{"pass": "y"})
    answer = ann.says(b"SUB a.b g 1\r\nSUB a.> 2\r\nSUB a.* q 3\r\nPING\r\n")
    assert answer == (
        b'-ERR \'Permissions Violation for Subscription to "a.b" using queue "g"\'\r\n'
        b"-ERR 'Permissions Violation for Subscription to \"a.>\"'\r\nPONG\r\n"
    )
    bob.says(b"PUB a.b 0\r\n\r\nPUB a.c 0\r\n\r\n")
    assert ann.read() == b"MSG a.c 3 0\r\n\r\n", "a denied part of an allowed pattern is not received either"


# --- readiness and credit ---------------------------------------------------------------------------


def test_the_first_pong_waits_until_the_node_is_ready(world: World) -> None:
    """R4: CONNECT is carried out, the rest waits in order; no client is closed or pinged meanwhile."""
    world.ready = False
    client = world.accept()
    client.read()
    assert client.says(connect(verbose=True), b"PING\r\nSUB a 1\r\n") == b"+OK\r\n"
    assert client.connection.phase is Phase.HELD
    assert not client.connection.reading
    client.connection.announce()
    for _ in range(5):
        world.now = client.connection.deadline_s()
        client.connection.on_deadline()
    assert client.says(b"PUB a 0\r\n\r\n") == b""
    client.connection.release()
    assert client.read() == b"", "not ready after all"
    world.ready = True
    client.connection.release()
    answer = client.read()
    assert answer.startswith(b"PONG\r\nINFO {")
    assert answer.endswith(b"}\r\n+OK\r\n+OK\r\nMSG a 1 0\r\n\r\n")
    assert client.connection.reading


def test_a_node_that_loses_readiness_keeps_its_clients(world: World) -> None:
    client = world.client()
    world.ready = False
    assert client.says(b"PING\r\n") == b"PONG\r\n"


def test_reading_can_be_paused(world: World) -> None:
    """R21."""
    client = world.client()
    woken: list[str] = []

    class Driver:
        def output(self) -> None:
            woken.append("output")

        def input(self) -> None:
            woken.append("input")

    client.connection.attach(Driver())
    client.connection.pause_reading()
    assert not client.connection.reading
    assert client.says(b"PING\r\n") == b"PONG\r\n", "what was read already is carried out"
    client.connection.resume_reading()
    client.connection.resume_reading()
    assert client.connection.reading
    assert woken == ["output", "input"]


# --- liveness ---------------------------------------------------------------------------------------


def pings(world: World, client: Client, until: float) -> list[tuple[float, bytes]]:
    """Return what the connection sends by itself, and when, until ``until`` or its end."""
    sent: list[tuple[float, bytes]] = []
    while (due := client.connection.deadline_s()) <= until:
        world.now = due
        client.connection.on_deadline()
        if data := client.read():
            sent.append((due, data))
    return sent


def test_two_unanswered_pings_and_one_more_interval_close(world: World) -> None:
    """NET-32."""
    client = world.client()
    assert pings(world, client, 10_000) == [
        (1120, b"PING\r\n"),
        (1240, b"PING\r\n"),
        (1360, b"-ERR 'Stale Connection'\r\n"),
    ]
    assert client.connection.closed


def test_any_pong_resets_the_count(world: World) -> None:
    client = world.client()
    for _ in range(5):
        assert pings(world, client, world.now + 240)[0][1] == b"PING\r\n"
        world.now += 0.25
        assert client.says(b"PONG\r\n") == b""
    assert client.connection.rtt_s == 0.25


def test_a_round_trip_is_estimated_from_the_first_answer(world: World) -> None:
    """As in nats-server: /connz shows it before the first PING, which comes after two minutes."""
    client = world.accept()
    assert client.connection.rtt_s == 0
    world.now += 0.125
    client.says(b"CONNECT {}\r\n")
    assert client.connection.rtt_s == 0.125
    world.now += 1
    client.says(b"CONNECT {}\r\n")
    assert client.connection.rtt_s == 0.125


def test_traffic_postpones_a_ping(world: World) -> None:
    client = world.client()
    for _ in range(10):
        world.now += 100
        client.connection.on_deadline()
        assert client.says(b"PING\r\n") == b"PONG\r\n"


def test_sent_bytes_postpone_a_ping_only_once(world: World) -> None:
    """Heartbeats every 30 s into a dead connection must not keep it alive for ever."""
    client = world.client()
    client.says(b"SUB hb 1\r\n")
    (subscription,) = client.connection.subscriptions.values()
    sent = []
    while not client.connection.closed:
        world.now += 30
        client.connection.on_deadline()
        sent.append(client.read())
        if not client.connection.closed:
            subscription.deliver(b"hb", b"")
            client.read()
    assert sent.count(b"PING\r\n") == 2
    assert world.now == 1000 + 6 * 120


# --- outbox -----------------------------------------------------------------------------------------


def test_the_soft_limit_pauses_deliveries_and_drained_resumes_them() -> None:
    """R3: the interface to the effect executor."""
    world = World(limits={"pending_soft": 100})
    client = world.client()
    client.says(b"SUB a 1\r\n")
    (subscription,) = client.connection.subscriptions.values()
    while client.connection.writable:
        subscription.deliver(b"a", b"x" * 20)
    assert client.connection.outbox_bytes >= 100
    world.service.events.clear()
    taken = client.connection.take()
    assert not client.connection.writable, "what is being written still counts"
    for data in taken:
        client.connection.sent(len(data))
    assert client.connection.outbox_bytes == 0
    assert world.service.events == [("drained", 1)], "once"


def test_a_slow_consumer_is_disconnected_without_an_error() -> None:
    """NET-33: the limit on pending bytes; other clients are unaffected."""
    world = World(limits={"max_pending": 1000, "pending_soft": 100})
    slow, fine, publisher = world.client(), world.client(), world.client()
    slow.says(b"SUB a 1\r\n")
    fine.says(b"SUB a 1\r\n")
    for _ in range(40):
        publisher.says(b"PUB a 50\r\n", b"x" * 50, b"\r\n")
        assert fine.read()
    assert slow.connection.closed
    assert slow.connection.aborted
    assert "slow consumer" in slow.connection.close_reason
    assert slow.read() == b""
    assert world.routing.subscription_count == 1
    assert ("closed", 1) in world.service.events


def test_close_writes_the_outbox_and_abort_does_not(world: World) -> None:
    for end, rest in ((Connection.close, b"MSG a 1 0\r\n\r\n"), (Connection.abort, b"")):
        client = world.client()
        client.connection.received(b"SUB a 1\r\nPUB a 0\r\n\r\n")
        run: Callable[[Connection, str], None] = end
        run(client.connection, "because")
        client.connection.close("again")
        assert client.connection.close_reason == "because"
        assert client.read() == rest
        assert world.routing.subscription_count == 0
    client.connection.abort("twice")


def test_too_many_connections(world: World) -> None:
    """NET-34: INFO comes first, because every client reads it first."""
    client = world.accept()
    client.connection.refuse()
    answer = client.read()
    assert answer.startswith(b"INFO ")
    assert answer.endswith(b"\r\n-ERR 'maximum connections exceeded'\r\n")


def test_a_connection_may_end_while_its_own_publish_is_under_way(world: World) -> None:
    client = world.client()
    world.routing.serve(b"bye", lambda source, *_: source.close("asked for"))
    client.connection.received(b"SUB bye 1\r\nPUB bye 0\r\n\r\nPUB bye 0\r\n\r\nPING\r\n")
    assert client.read() == b""
    assert client.connection.close_reason == "asked for"


def test_info_parses_as_clients_do(world: World) -> None:
    parser = ClientParser()
    parser.feed(world.accept().read())
    (op,) = parser.ops()
    assert isinstance(op, Info)


# --- steps ------------------------------------------------------------------------------------------


def test_a_large_fan_out_runs_in_steps() -> None:
    """256 KiB of small publishes to 1,000 subscribers took half a minute, and no other client was served."""
    world = World()
    reachable = [world.client() for _ in range(STEP_COST // 8 - PUBLISH_COST)]
    for client in reachable:
        client.says(b"SUB a 1\r\n")
    busy = world.client()
    sent = b"".join(b"PUB a 2\r\n%02d\r\n" % number for number in range(20)) + b"PING\r\n"
    assert busy.says(sent) == b""
    steps = 1
    while busy.connection.resting:
        assert not busy.connection.reading
        got = reachable[0].read().count(b"MSG")
        assert got == (8 if steps < 3 else 4)
        busy.says(b"PING\r\n") if steps == 1 else None
        busy.connection.go_on()
        steps += 1
    assert steps == 3
    assert busy.connection.reading
    assert busy.read() == b"PONG\r\nPONG\r\n"
    assert reachable[-1].read() == b"".join(b"MSG a 1 2\r\n%02d\r\n" % number for number in range(20))


def test_a_closed_or_paused_connection_runs_no_further_step() -> None:
    world = World()
    reachable = [world.client() for _ in range(STEP_COST // 2)]
    for client in reachable:
        client.says(b"SUB a 1\r\n")
    for ends in (True, False):
        busy = world.client()
        busy.says(b"PUB a 0\r\n\r\n" * 5)
        assert busy.connection.resting
        if ends:
            busy.connection.close("enough")
        else:
            busy.connection.pause_reading()
        assert not busy.connection.resting
        assert not busy.connection.reading
        busy.connection.resume_reading()
        assert busy.connection.resting is not ends


def test_long_patterns_run_in_steps_too() -> None:
    """500 of two thousand tokens took eight seconds."""
    client = World().client()
    pattern = b".".join([b"a"] * 600 + [b"*"])
    client.says(b"".join(b"SUB %b %d\r\n" % (pattern, number) for number in range(10)))
    a_step = -(-STEP_COST // (len(pattern) + SUBSCRIPTION_COST))
    assert len(client.connection.subscriptions) == a_step < 5
    while client.connection.resting:
        client.connection.go_on()
    assert len(client.connection.subscriptions) == 10
    client.says(b"".join(b"UNSUB %d\r\n" % number for number in range(10)))
    assert len(client.connection.subscriptions) == 10 - a_step


FLOODS = {
    "pings": (b"PING\r\n", 1200),
    "pongs": (b"PONG\r\n", 1200),
    "publishes without a subscriber": (b"PUB a 0\r\n\r\n", 600),
    "requests without a subscriber": (b"PUB a b 0\r\n\r\n", 600),
    "publishes with headers": (b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", 600),
    "invalid subscriptions": (b"SUB a..b 1\r\n", 600),
    "subscriptions that are there": (b"SUB a 1\r\n", 600),
    "ends of none": (b"UNSUB 9\r\n", 1200),
    "the shortest CONNECTs": (b"CONNECT {}\r\n", 40),
}


@pytest.mark.parametrize("what", FLOODS)
def test_every_operation_counts_in_a_step(what: str) -> None:
    """One read of 256 KiB was one step of up to 380 ms, in which no other client got an answer."""
    operation, most = FLOODS[what]
    client = World().client()
    read = operation * ((256 << 10) // len(operation))
    client.connection.received(read)
    steps = 1
    while client.connection.resting:
        assert not client.connection.reading
        client.read()
        client.connection.go_on()
        steps += 1
    assert client.connection.reading
    assert steps >= len(read) // len(operation) // most


def test_the_first_publish_to_a_subject_costs_more() -> None:
    """Finding that a subject has no subscriber takes ten times as long as remembering it."""
    world = World()
    same, others = world.client(), world.client()
    same.connection.received(b"PUB a 0\r\n\r\n" * 10_000)
    others.connection.received(b"".join(b"PUB a.%d 0\r\n\r\n" % number for number in range(10_000)))
    assert others.connection.in_msgs < same.connection.in_msgs < 10_000


# --- draining ---------------------------------------------------------------------------------------


def test_nothing_is_carried_out_between_quiesce_and_drain(world: World) -> None:
    """Bytes received in between wait, and are carried out after `drain`; nothing more is sent."""
    reachable: list[bytes] = []
    world.routing.serve(b"a", lambda _source, _subject, _reply, payload: reachable.append(payload))
    client = world.client()
    client.says(b"SUB b 1\r\n")
    client.connection.quiesce()
    assert client.connection.quiet
    assert not client.connection.reading
    assert client.says(b"PUB a 1\r\n1\r\nPING\r\nSUB c 2\r\n") == b""
    assert reachable == []
    client.connection.drain("this node stops")
    assert reachable == [b"1"]
    assert client.connection.reading
    assert client.says(b"PUB b 1\r\nx\r\nPUB a 1\r\n2\r\n") == b""
    assert reachable == [b"1", b"2"]
    assert not world.routing.reachable(b"b"), "it counts as gone from here"
    assert not world.routing.reachable(b"c")
    client.connection.close("the client has left")
    assert client.connection.closed
    assert client.connection.close_reason == "this node stops"


def test_the_outbox_of_a_drained_client_is_written(world: World) -> None:
    client = world.client()
    client.connection.received(b"SUB b 1\r\nPUB b 1\r\nx\r\n")
    client.connection.drain("this node stops")
    assert client.read() == b"MSG b 1 1\r\nx\r\n"
    assert client.connection.output_ended
    assert not client.connection.closed


def test_a_connection_that_is_not_open_is_closed_instead(world: World) -> None:
    client = world.accept()
    client.connection.drain("this node stops")
    assert client.connection.closed


# --- the rate of changes ----------------------------------------------------------------------------


def test_a_client_that_changes_very_many_subscriptions_is_slowed_down() -> None:
    """50,000 that began and ended occupied all nodes: another client's publishes waited 0.9 s."""
    world = World()
    world.routing = world.context.routing = Routing(
        "n1", send=lambda peer, value: None, clock=lambda: world.now
    )
    client, other = world.client(), world.client()
    began_s, total = world.now, BURST + 20_000
    client.connection.received(b"".join(b"SUB a.%d %d\r\n" % (number, number) for number in range(total)))
    while client.connection.resting:
        world.now = max(world.now, client.connection.rests_until_s)
        client.connection.go_on()
        assert other.says(b"SUB b 1\r\nUNSUB 1\r\nPING\r\n") == b"PONG\r\n"
        assert not other.connection.resting
    assert len(client.connection.subscriptions) == total
    assert 0.9 < (world.now - began_s) / (20_000 / CHANGES_PER_S) < 1.2


def test_small_reads_are_paced_too() -> None:
    world = World()
    world.routing = world.context.routing = Routing(
        "n1", send=lambda peer, value: None, clock=lambda: world.now
    )
    client = world.client()
    for number in range(BURST + 1):
        assert client.connection.reading
        client.says(b"SUB a 1\r\nUNSUB 1\r\n" if number % 2 else b"SUB b 2\r\nUNSUB 2\r\n")
        if client.connection.resting:
            break
    assert client.connection.resting
    assert not client.connection.reading
    client.connection.go_on()
    assert client.connection.reading


def test_a_stopping_node_does_not_wait_for_the_rate_limit() -> None:
    world = World()
    world.routing = world.context.routing = Routing(
        "n1", send=lambda peer, value: None, clock=lambda: world.now
    )
    client = world.client()
    client.connection.received(b"".join(b"SUB a.%d %d\r\n" % (n, n) for n in range(2 * BURST)))
    client.connection.quiesce()
    while client.connection.resting:
        client.connection.go_on()
        assert client.connection.rests_until_s <= world.now + 0.2
    assert client.connection.quiet
