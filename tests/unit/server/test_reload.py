"""SIGHUP: options that change at once, are proposed or need a restart; errors change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from node.config.model import Clients, Config, Limits, Logging, NatsServer, Raft, Streaming, User
from node.config.values import Secret, ServerURL
from node.errors import ConfigError
from node.server.access import authenticator
from node.server.auth import Identity
from node.server.launch import Launch
from node.server.reload import reload, restart_needed

ANN = User("ann", Secret("text", "a"))
BOB = User("bob", Secret("text", "b"))


class Connection:
    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.closed: tuple[str, ...] = ()

    def close(self, reason: str, error: str = "") -> None:
        self.closed = (reason, error)


class FakeNode:
    """The parts of a node that a reload uses."""

    def __init__(self, old: Config, read: Callable[[], Config] | None) -> None:
        self.config = old
        self.security = None
        self.levels: list[str] = []
        self.proposed: list[bool] = []
        self.launch = Launch(reload=read, relevel=lambda config: self.levels.append(config.logging.level))
        self.context = SimpleNamespace(authenticator=authenticator(old.clients))
        self.clients = SimpleNamespace(connections={})
        self._agreed = (old.limits, old.streaming)
        self.settings_sync = SimpleNamespace(different=self.different, propose=self.propose)

    def connect(self, name: str) -> Connection:
        connection = Connection(Identity(name))
        self.clients.connections[len(self.clients.connections)] = connection
        return connection

    def different(self) -> list[str]:
        return [] if (self.config.limits, self.config.streaming) == self._agreed else ["max_msgs"]

    def propose(self, *, only_if_unset: bool) -> None:
        self.proposed.append(only_if_unset)


async def reloaded(old: Config, new: Config) -> FakeNode:
    node: Any = FakeNode(old, lambda: new)
    await reload(node)
    return node


async def test_users_change_and_authorized_connections_stay() -> None:
    """CFG-05: clients that are still authorized keep their connections, the others lose them."""
    old = Config(clients=Clients(users=(ANN, BOB)))
    node: Any = FakeNode(old, lambda: Config(clients=Clients(users=(ANN, User("eve", Secret("text", "e"))))))
    ann, bob, nobody = node.connect("ann"), node.connect("bob"), Connection(None)
    node.clients.connections[7] = nobody
    await reload(node)
    assert not ann.closed
    assert bob.closed[1] == "Authorization Violation"
    assert not nobody.closed, "it has not said who it is yet"
    assert node.context.authenticator.begin({"user": "eve", "pass": "e"}) == Identity("eve")
    assert node.context.authenticator.begin({"user": "bob", "pass": "b"}) is None
    assert node.config.clients.users[1].user == "eve"


@pytest.mark.parametrize(
    ("old", "new", "name", "stays"),
    [
        (Clients(), Clients(), "", True),
        (Clients(), Clients(token=Secret("text", "t")), "", False),
        (Clients(token=Secret("text", "t")), Clients(token=Secret("text", "t")), "", True),
        (Clients(token=Secret("text", "t")), Clients(token=Secret("text", "u")), "", False),
        (Clients(users=(ANN,)), Clients(), "ann", True),
        (Clients(users=(ANN,)), Clients(users=(replace(ANN, password=Secret("text", "z")),)), "ann", False),
        (Clients(), Clients(users=(ANN,)), "", False),
        (Clients(), Clients(users=(ANN,)), "ann", False),
    ],
)
async def test_which_connections_stay(old: Clients, new: Clients, name: str, stays: bool) -> None:
    node: Any = FakeNode(Config(clients=old), lambda: Config(clients=new))
    connection = node.connect(name)
    await reload(node)
    assert (not connection.closed) == stays


async def test_limits_are_proposed_as_one_command() -> None:
    """R23: they belong to the cluster, and all nodes change at the same entry."""
    node = await reloaded(Config(), Config(limits=Limits(max_msgs=5)))
    assert node.proposed == [False]
    assert node.config.limits.max_msgs == 5
    assert (await reloaded(Config(), Config())).proposed == []


async def test_the_level_changes_at_once() -> None:
    node = await reloaded(Config(), Config(logging=Logging(level="debug")))
    assert node.levels == ["debug"]


async def test_what_needs_a_restart_is_named(caplog: pytest.LogCaptureFixture) -> None:
    new = Config(
        raft=Raft(heartbeat_ns=50_000_000),
        streaming=Streaming(discover_prefix="_OTHER"),
        clients=Clients(max_payload=5),
    )
    with caplog.at_level(logging.WARNING, "stanchion.node"):
        node = await reloaded(Config(), new)
    assert "raft.heartbeat, clients.max_payload, streaming.discover_prefix" in caplog.text
    assert node.config == Config()


async def test_mistakes_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Config:
        raise ConfigError(["c.yaml:3:1: unknown key maxx", "c.yaml:4:1: another"])

    node: Any = FakeNode(Config(clients=Clients(users=(ANN,))), read)
    ann, before = node.connect("ann"), node.context.authenticator
    await reload(node)
    assert "unknown key maxx" in caplog.text
    assert "c.yaml:4:1: another" in caplog.text
    assert "nothing was changed" in caplog.text
    assert node.context.authenticator is before
    assert not ann.closed
    assert node.levels == node.proposed == []


async def test_without_a_file_there_is_nothing_to_read(caplog: pytest.LogCaptureFixture) -> None:
    node: Any = FakeNode(Config(), None)
    await reload(node)
    assert "nothing to reload" in caplog.text


def test_secrets_are_compared_and_not_opened() -> None:
    """The path is named, never the secret."""
    old, new = Config(clients=Clients(users=(ANN,))), Config(clients=Clients(users=(BOB,)))
    assert restart_needed(old, new) == ["clients.users"]
    assert restart_needed(old, old) == []


async def test_an_external_server_waits_for_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    """The connection stays, with the credentials that it was opened with."""
    caplog.set_level(logging.WARNING)
    there = NatsServer(urls=(ServerURL("a", 4222, password="s3cret"),))
    elsewhere = replace(there, urls=(ServerURL("b", 4222, password="s3cret"),))
    old, new = (
        Config(streaming=Streaming(nats_server=there)),
        Config(streaming=Streaming(nats_server=elsewhere)),
    )
    node = await reloaded(old, new)
    assert node.config.streaming.nats_server == there
    assert "restarted: streaming.nats_server.urls" in caplog.text
    assert "s3cret" not in caplog.text
