"""Client IDs (R8, R17, and the streaming protocol's "Connecting")."""

from __future__ import annotations

import pytest
from conversation import LATE, SECOND, Conversation, client_open, publishes

from node.core import clients
from node.core.commands import ClientCheck, ClientClose, ClientKeep, ClientReplace, Publish
from node.core.effects import OK, ClientOpened, Probing

TAKEN = "stan: clientID already registered"


def replacement(
    talk: Conversation, conn: bytes, generation: tuple[int, int] | None = None, **more: int
) -> ClientReplace:
    known = generation or talk.state.clients["me"].generation
    return ClientReplace("me", known, conn, "hb.new", 1, 5, 3, more.get("valid_until", 1 << 62))


def test_a_client_is_registered() -> None:
    """CON-02: everything a new leader needs is in the state, negative ping settings too."""
    talk = Conversation()
    command = client_open("me")._replace(ping_interval_s=-1, ping_max_out=-7)
    assert talk.say(command).outcome == ClientOpened("me")
    client = talk.state.clients["me"]
    assert (client.conn_id, client.heartbeat_inbox, client.ping_interval_s) == (b"me", "hb.me", -1)
    assert talk.state.by_conn == {b"me": client}


def test_no_more_clients_than_a_cluster_can_ask_for_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory on every node for as long as it is registered. Who is, can be replaced."""
    monkeypatch.setattr(clients, "CLIENTS_MAX", 2)
    talk = Conversation()
    talk.connect("me", "you")
    assert talk.connect("they").refusal == "stan: too many clients"
    known = talk.state.clients["me"].generation
    gone = ClientReplace("they", (1, 1), b"conn", "hb.they", 1, 5, 3, LATE)
    assert talk.say(gone).refusal == "stan: too many clients"
    assert talk.say(replacement(talk, b"two", known)).outcome == ClientOpened("me")
    assert talk.say(ClientClose("you")).outcome == OK
    assert talk.connect("they").outcome == ClientOpened("they")


def test_version_1_registers_any_number_of_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """R24: as the first release does."""
    monkeypatch.setattr(clients, "CLIENTS_MAX", 2)
    talk = Conversation(version=1)
    assert talk.connect("me", "you", "they").outcomes[-1] == ClientOpened("they")


def test_a_repeated_request_is_answered_again() -> None:
    """R17, CON-10: same connection ID and inbox: its answer was lost, so it asks again."""
    talk = Conversation()
    talk.connect("me")
    generation = talk.state.clients["me"].generation
    assert talk.connect("me").outcome == ClientOpened("me")
    assert talk.state.clients["me"].generation == generation


def test_a_connection_with_another_inbox_is_no_repetition() -> None:
    """R17, CON-10: whoever listened on the old inbox may be alive, and is asked."""
    talk = Conversation()
    talk.connect("me")
    outcome = talk.say(client_open("me", b"me", "hb.elsewhere")).outcome
    assert outcome == Probing("me", talk.state.clients["me"].generation, "hb.me")


def test_a_taken_id_is_probed_first() -> None:
    """R17, DUP-03: the origin pings the old inbox; whoever asks meanwhile is refused at once."""
    talk = Conversation()
    talk.connect("me")
    client = talk.state.clients["me"]
    assert talk.say(client_open("me", b"two", "x")).outcome == Probing("me", client.generation, "hb.me")
    assert talk.say(client_open("me", b"three", "y")).refusal == TAKEN
    assert talk.connect("other").outcome == ClientOpened("other")  # DUP-04


def test_a_probe_that_nobody_ends_is_over_after_three_seconds() -> None:
    """R17: the probing origin died with its request."""
    talk = Conversation()
    talk.connect("me")
    talk.say(client_open("me", b"two", "x"), at=1)
    assert talk.say(client_open("me", b"three", "y"), at=3.9).refusal == TAKEN
    assert isinstance(talk.say(client_open("me", b"three", "y"), at=4).outcome, Probing)


def test_who_does_not_answer_is_replaced() -> None:
    """DUP-02, DUP-06, DUP-07, DUP-08: closed as if it had asked; its connection ID is worth nothing."""
    talk = Conversation()
    talk.connect("me")
    talk.subscribe("A")
    talk.subscribe("B", durable="d")
    talk.say(client_open("me", b"two", "x"))
    assert talk.say(replacement(talk, b"two")).outcome == ClientOpened("me")
    assert talk.state.clients["me"].conn_id == b"two"
    assert [known.inbox for known in talk.state.subscriptions.values()] == ["B"]
    assert not talk.find("B").online
    assert talk.publish().refusal == "stan: invalid publish request"
    assert talk.publish(client="two").outcome == OK
    assert talk.say(ClientCheck(b"me")).refusal == "client has been replaced or is no longer registered"
    assert talk.say(ClientCheck(b"two")).outcome == OK


def test_only_the_probed_generation_is_replaced() -> None:
    """R17, DUP-09: two probes through two nodes; the second finds another client than it had asked."""
    talk = Conversation()
    talk.connect("me")
    first = talk.state.clients["me"].generation
    talk.say(client_open("me", b"two", "x"))
    talk.say(replacement(talk, b"two"))
    assert talk.say(replacement(talk, b"three", first)).refusal == TAKEN
    assert talk.state.clients["me"].conn_id == b"two"


def test_the_probed_client_closed_meanwhile() -> None:
    """UNS-10: the ID is free, so the newcomer is just registered."""
    talk = Conversation()
    talk.connect("me")
    generation = talk.state.clients["me"].generation
    talk.say(client_open("me", b"two", "x"))
    talk.leave("me")
    assert talk.say(replacement(talk, b"two", generation)).outcome == ClientOpened("me")


def test_who_answers_stays() -> None:
    """DUP-01: the newcomer is refused, and the ID can be probed again."""
    talk = Conversation()
    talk.connect("me")
    generation = talk.state.clients["me"].generation
    talk.say(client_open("me", b"two", "x"))
    assert talk.say(ClientKeep("me", generation)).refusal == TAKEN
    assert isinstance(talk.say(client_open("me", b"two", "x")).outcome, Probing)
    assert talk.say(ClientKeep("me", (9, 9))).refusal == TAKEN
    assert talk.say(client_open("me", b"three", "x")).refusal == TAKEN


def test_a_request_that_comes_too_late_changes_nothing() -> None:
    """R8: the client has given up; nobody reads the answer, and nobody is registered or replaced."""
    talk = Conversation()
    assert talk.say(client_open("me", valid_until=2 * SECOND), at=2).outcome == ClientOpened("me")
    assert talk.say(client_open("late", valid_until=2 * SECOND), at=2.1).refusal == ""
    assert list(talk.state.clients) == ["me"]
    talk.say(client_open("me", b"two", "x"))
    assert talk.say(replacement(talk, b"two", valid_until=2 * SECOND)).refusal == ""
    assert talk.state.clients["me"].conn_id == b"me"
    assert isinstance(talk.say(client_open("me", b"two", "x")).outcome, Probing)  # the probe is over
    assert talk.say(replacement(talk, b"two", (9, 9), valid_until=0)).refusal == TAKEN


def test_protocol_0_has_no_connection_id() -> None:
    """Protocol 3.2: it is known by its ID, and a repeated request is no repetition."""
    talk = Conversation()
    talk.say(client_open("old", b""))
    assert talk.state.by_conn == {}
    assert talk.say(Publish("old", b"", "foo", b"x")).outcome == OK
    assert isinstance(talk.say(client_open("old", b"")).outcome, Probing)
    assert talk.say(
        replacement(talk, b"", talk.state.clients["old"].generation)._replace(client_id="old")
    ).outcome
    talk.leave("old")
    assert talk.state.clients == {}


def test_nobody_registers_anothers_connection_id() -> None:
    """A connection ID proves who publishes: taken by another client, it is refused."""
    talk = Conversation()
    talk.connect("me")
    for command in (
        client_open("thief", b"me"),
        ClientReplace("thief", (1, 1), b"me", "hb.x", 1, 5, 3, 1 << 62),
    ):
        assert talk.say(command).refusal == "stan: invalid connection request"
    talk.connect("you")
    assert talk.say(client_open("you", b"me", "hb.x")).refusal == "stan: invalid connection request"
    assert talk.state.by_conn[b"me"].id == "me"


def test_publishing_needs_a_registered_client() -> None:
    """PUB-03, PUB-04: with a connection ID only that counts, without one the client ID."""
    talk = Conversation()
    talk.connect("me")
    outcomes = talk.say(
        Publish("me", b"unknown", "foo", b"x"),
        Publish("unknown", b"me", "foo", b"x"),
        Publish("me", b"", "foo", b"x"),
        Publish("unknown", b"", "foo", b"x"),
        Publish("", b"", "foo", b"x"),
    ).outcomes
    assert [outcome == OK for outcome in outcomes] == [False, True, True, False, False]


def test_closing_a_client() -> None:
    """UNS-06, UNS-10: everything of it ends; a second close finds nobody."""
    talk = Conversation()
    talk.connect("me")
    for n, options in enumerate(({}, {"durable": "d"}, {"queue": "q"}, {"queue": "q", "durable": "d"})):
        talk.subscribe(f"S{n}", **options)
    assert talk.leave().outcome == OK
    assert talk.state.clients == {} == talk.state.by_conn
    assert [known.inbox for known in talk.state.subscriptions.values()] == ["S1", "S3"]
    assert talk.say(ClientClose("me")).refusal == "stan: unknown clientID"
    assert talk.connect("me").outcome == ClientOpened("me")


def test_a_close_is_for_the_client_that_asked() -> None:
    """UNS-10, R8: it may wait for a leader until its client has come back through another node."""
    talk = Conversation()
    talk.connect("me")
    before = talk.state.clients["me"].generation
    talk.say(ClientReplace("me", before, b"new", "hb.new", 1, 5, 3, LATE))
    talk.subscribe("S")
    assert talk.say(ClientClose("me", before)).refusal == "stan: unknown clientID"
    assert "me" in talk.state.clients
    assert talk.find("S").online
    assert talk.say(ClientClose("me", talk.state.clients["me"].generation)).outcome == OK
    assert talk.state.clients == {}


def test_publishes_before_a_close_count() -> None:
    """PUB-18: in one entry, in their order."""
    talk = Conversation()
    talk.connect("me")
    outcomes = talk.say(*publishes(2), ClientClose("me"), *publishes()).outcomes
    assert outcomes[:3] == [OK, OK, OK]
    assert outcomes[3] != OK
    assert talk.state.channels["foo"].log.last == 2
