"""What operators ask of a node: looked up in its state, or proposed and answered when applied."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conversation import EPOCH_NS, SECOND, Conversation

from node.core.commands import Command
from node.core.effects import Outcome
from node.errors import RefusedError
from node.server.administration.peeking import Messages
from node.server.administration.requests import Administration, subject
from node.server.administration.verbs import TIMEOUT_MAX_S, Administering, changes_of
from node.server.auth import OPERATOR
from node.server.clock import ClusterClock


class Client:
    address = ("127.0.0.1", 50_000)
    identity = OPERATOR


class Node:
    """A node whose entries are applied at once, behind routing that keeps what is published."""

    def __init__(self, **settings: Any) -> None:
        self.talk = Conversation(**settings)
        self.talk.connect("me", "you")
        self.submitted: list[tuple[Command, Callable[[Outcome], None] | None]] = []
        self.answered: list[Any] = []
        self.messages: Messages = self
        self.holds = False
        clock = ClusterClock(lambda: 0)
        clock.seen(0)
        administering = Administering(
            state=lambda: self.talk.state,
            requests=self,
            clock=clock,
            wall_clock_ns=lambda: EPOCH_NS + 100 * SECOND,
            messages=lambda: self.messages,
        )
        administering.register(Administration("shop", self))

    # --- what it needs of others ------------------------------------------------------------------

    def serve(self, _pattern: bytes, handler: Callable[..., None]) -> None:
        self.handler = handler

    def publish(
        self,
        source: None,
        subject: bytes,
        reply: bytes,
        headers: bytes,
        payload: bytes,
        *,
        to_services: bool,
    ) -> int:
        assert not to_services
        self.answered.append(json.loads(payload))
        return 1

    def submit(self, command: Command, answer: Callable[[Outcome], None] | None = None) -> None:
        self.submitted.append((command, answer))

    def flush(self) -> None:
        if not self.holds:
            self.apply()

    def get_many(self, channel: int, seqs: Any) -> list[bytes | None]:
        return [b"\x08%c\x22\x01x" % seq for seq in seqs]

    # --- what a test says -------------------------------------------------------------------------

    def apply(self) -> None:
        submitted, self.submitted = self.submitted, []
        for command, answer in submitted:
            outcome = self.talk.say(command).outcome
            assert answer is not None
            answer(outcome)

    def ask(self, verb: str, **fields: Any) -> Any:
        """What is ``ok``. Raises RefusedError with the text of an error."""
        self.answered.clear()
        self.handler(Client(), subject("shop", verb), b"_INBOX.r", json.dumps(fields).encode())
        (answer,) = self.answered
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer["ok"]


@pytest.fixture
def node() -> Node:
    node = Node()
    node.talk.subscribe("A", durable="d")
    node.talk.subscribe("B", "you", queue="q")
    node.talk.subscribe("C", "you", queue="q")
    node.talk.publish(4)
    node.talk.publish(1, channel="bar")
    return node


# --- looking -------------------------------------------------------------------------------------


def test_channels_are_listed_in_order_of_their_names(node: Node) -> None:
    seen = node.ask("channel.ls")
    assert [(row["name"], row["messages"], row["online"]) for row in seen["channels"]] == [
        ("bar", 1, 0),
        ("foo", 4, 3),
    ]
    assert seen["next"] is None


def test_pages_follow_each_other(node: Node) -> None:
    """Behind what was shown, whatever has come and gone since."""
    page = node.ask("channel.ls", limit=1)
    assert ([row["name"] for row in page["channels"]], page["next"]) == (["bar"], "bar")
    page = node.ask("channel.ls", limit=1, after="bar")
    assert ([row["name"] for row in page["channels"]], page["next"]) == (["foo"], None)
    assert node.ask("channel.ls", after="zoo") == {"channels": [], "next": None}
    assert [row["id"] for row in node.ask("subscription.ls", after=1, limit=1)["subscriptions"]] == [2]
    assert [row["id"] for row in node.ask("client.ls", after="me")["clients"]] == ["you"]
    for limit in (0, 501):
        with pytest.raises(RefusedError, match="1 to 500 rows"):
            node.ask("client.ls", limit=limit)


def test_subscriptions_are_listed_by_filter(node: Node) -> None:
    def ids(**wanted: Any) -> list[int]:
        return [row["id"] for row in node.ask("subscription.ls", **wanted)["subscriptions"]]

    assert ids() == [1, 2, 3]
    assert ids(client="you") == [2, 3]
    assert ids(channel="bar") == []
    node.ask("subscription.pause", id=2)
    assert ids(paused=True) == [2, 3]
    node.talk.close("A")
    assert ids(offline=True) == [1]
    assert ids(offline=False, channel="foo") == [2, 3]


def test_things_are_shown_in_full(node: Node) -> None:
    foo = node.ask("channel.info", channel="foo")
    assert (foo["first"], foo["last"], foo["last_time_ns"]) == (1, 4, EPOCH_NS)
    assert foo["limits"]["max_msgs"] == 1_000_000
    assert [shown["id"] for shown in foo["subscriptions_shown"]] == [1, 2, 3]
    mine = node.ask("subscription.info", id=1)
    assert (mine["cursor"], mine["behind"], mine["unacked"], mine["ack_wait_s"]) == (4, 0, 4, 30)
    assert mine["unacked_shown"][0] == {"seq": 1, "sent": 1, "due_in_s": 30}
    assert node.ask("subscription.info", queue="q")["members"] == [2, 3]
    you = node.ask("client.info", client="you")
    assert (you["subscriptions"], you["protocol"]) == (2, 1)


def test_secrets_are_not_shown(node: Node) -> None:
    """R18: who knows an ack inbox or a connection ID can speak for another."""
    shown = json.dumps(
        [
            node.ask("channel.info", channel="foo"),
            node.ask("subscription.info", id=1),
            node.ask("client.info", client="me"),
        ]
    )
    assert not any(inbox in shown for inbox in node.talk.state.by_ack_inbox)
    assert "conn" not in shown


@pytest.mark.parametrize(
    ("verb", "fields", "text"),
    [
        ("channel.info", {"channel": "zoo"}, "there is no channel 'zoo'"),
        ("channel.purge", {"channel": "zoo"}, "there is no channel 'zoo'"),
        ("channel.purge", {"channel": "foo", "up_to": 0}, "0 is not a sequence"),
        ("channel.purge", {"channel": "foo", "timeout_s": 0}, "waiting is for up to 300 s, not 0"),
        ("channel.purge", {"channel": "foo", "timeout_s": TIMEOUT_MAX_S + 1}, "waiting is for up to"),
        ("subscription.info", {}, "no subscription selected"),
        ("subscription.info", {"id": 0}, "there is no subscription with id 0"),
        ("subscription.info", {"id": 1, "durable": "e"}, "there is no subscription with id 1, durable e"),
        ("subscription.pause", {"channel": "foo"}, "3 subscriptions match, 1, 2, 3 among them"),
        ("subscription.rm", {"queue": "q"}, "2 subscriptions match, 2, 3 among them"),
        ("subscription.seek", {"id": 1, "to": "moon"}, "expected first, last or end"),
        ("subscription.seek", {"id": 1, "to": "sequence"}, "expected first, last or end"),
        ("subscription.seek", {"id": 1, "to": "first", "value": 1}, "expected first, last or end"),
        ("client.info", {"client": "nobody"}, "there is no client 'nobody'"),
        ("client.kick", {"client": "nobody"}, "there is no client 'nobody'"),
        ("config.apply", {"settings": {"max_msgs": -1}}, "max_msgs is negative"),
        ("config.apply", {"settings": {"colour": 1}}, "colour"),
        ("config.apply", {"settings": {"max_msgs": 1 << 63}}, "max_msgs is too large"),
        ("config.apply", {"settings": {"channels": {"a": {"max_msgs": 1 << 63}}}}, "channels: 'a'"),
        ("config.apply", {"settings": {"channels": {"\ud800": {"max_msgs": 1}}}}, r"channels: '\\ud800'"),
    ],
)
def test_invalid_requests_are_refused(node: Node, verb: str, fields: dict[str, Any], text: str) -> None:
    """Nothing is proposed for it."""
    node.holds = True
    with pytest.raises(RefusedError, match=text):
        node.ask(verb, **fields)
    assert not node.submitted


# --- changing ------------------------------------------------------------------------------------


def test_a_channel_is_purged_and_deleted(node: Node) -> None:
    assert node.ask("channel.purge", channel="foo", up_to=3)["messages"] == 1
    assert node.ask("channel.purge", channel="foo")["messages"] == 0
    with pytest.raises(RefusedError, match="3 online subscriptions"):
        node.ask("channel.rm", channel="foo")
    assert node.ask("channel.rm", channel="foo", force=True)["name"] == "foo"
    assert [*node.talk.state.channels] == ["bar"]


def test_a_subscription_is_removed_by_its_names(node: Node) -> None:
    node.talk.close("A")
    assert node.ask("subscription.rm", channel="foo", durable="d", client="me")["id"] == 1
    assert node.ask("subscription.rm", queue="q", group=True, force=True)["queue"] == "q"
    assert not node.talk.state.subscriptions


@pytest.mark.parametrize(
    ("to", "value", "cursor"),
    [
        ("first", None, 0),
        ("last", None, 3),
        ("end", None, 4),
        ("sequence", 3, 2),
        ("time", EPOCH_NS, 0),
        ("time", EPOCH_NS + 1, 4),
        ("ago", 100 * SECOND, 0),
        ("ago", 99 * SECOND, 4),
        ("ago", (1 << 63) - 1, 0),
    ],
)
def test_a_cursor_is_put_elsewhere(node: Node, to: str, value: int | None, cursor: int) -> None:
    """Offline, so that it stays where it is put."""
    node.talk.close("A")
    fields = {"to": to} if value is None else {"to": to, "value": value}
    assert node.ask("subscription.seek", durable="d", **fields)["cursor"] == cursor


def test_a_cursor_is_paused(node: Node) -> None:
    assert node.ask("subscription.pause", queue="q")["paused"] is True
    assert node.ask("subscription.info", id=3)["paused_for_s"] == 0
    assert node.ask("subscription.resume", id=3)["paused"] is False


def test_a_client_is_kicked(node: Node) -> None:
    assert node.ask("client.kick", client="you")["id"] == "you"
    assert [*node.talk.state.clients] == ["me"]


def test_an_answer_comes_when_it_is_applied(node: Node) -> None:
    """Not before; and if what it was about is gone by then, it still comes."""
    node.holds = True
    for verb, fields in (
        ("channel.purge", {"channel": "foo"}),
        ("subscription.pause", {"id": 1}),
        ("channel.rm", {"channel": "foo", "force": True}),
    ):
        node.handler(Client(), subject("shop", verb), b"r", json.dumps(fields).encode())
    assert node.answered == []
    purge, pause, delete = node.submitted
    node.submitted = [delete]
    node.apply()
    node.submitted = [purge, pause]
    node.apply()
    assert [next(iter(answer)) for answer in node.answered] == ["ok", "error", "error"]


# --- settings ------------------------------------------------------------------------------------


def test_settings_are_shown_compared_and_changed() -> None:
    """A dry run changes nothing; what is the same already isn't proposed again."""
    node = Node(max_msgs=50, channels={"a.*": {"max_msgs": 1}, "b": {"max_bytes": 2}})
    wanted = {"max_msgs": 60, "channels": {"a.*": {"max_msgs": 1}, "c.>": {"max_age_ns": 3}}}
    changes = {
        "max_msgs": [50, 60],
        "channels.b": [{"max_bytes": 2}, None],
        "channels.c.>": [None, {"max_age_ns": 3}],
    }
    assert node.ask("config.apply", settings=wanted, dry_run=True) == {"changes": changes, "applied": False}
    assert node.ask("config.show")["max_msgs"] == 50
    assert node.ask("config.apply", settings=wanted) == {"changes": changes, "applied": True}
    assert node.ask("config.show")["max_msgs"] == 60
    node.holds = True
    assert node.ask("config.apply", settings=wanted) == {"changes": {}, "applied": False}


def test_setting_the_defaults_for_the_first_time_is_a_change() -> None:
    """They stop giving way to the file of the next node that starts."""
    settings = Node().talk.state.settings
    assert changes_of(settings, settings) == {"set": [False, True]}
