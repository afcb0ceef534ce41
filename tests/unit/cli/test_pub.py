"""The messages of ``stanchion pub``, and repeated publishes after a node died."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from node.cli import pub as command
from node.cli.main import main
from node.errors import RefusedError


def test_count_repeats_the_data() -> None:
    assert list(command.messages("x", 3, 0)) == [b"x"] * 3


def test_data_may_follow_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """argparse alone accepts an optional argument only right after the one before it."""
    said: list[Any] = []
    monkeypatch.setattr(command, "run", lambda args: said.append((args.channel, args.data, args.count)) or 0)
    assert main(["pub", "orders", "--count", "2", "hello"]) == 0
    assert main(["pub", "orders", "hello", "--count", "2"]) == 0
    assert said == [("orders", "hello", 2)] * 2


def test_generated_data_has_its_size() -> None:
    assert list(command.messages(None, 1, 4)) == [b"...."]


def test_lines_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert list(command.messages("-", 1, 0)) == [b"a", b"b"]


class Connection:
    """The part of a client's connection that publishing uses."""

    def __init__(self) -> None:
        self.connected = trio.Event()
        self.connected.set()
        self.on_disconnect: Callable[[], None] = lambda: None


class Client:
    """Records publishes; the test answers them."""

    def __init__(self) -> None:
        self.nats = Connection()
        self.published: list[bytes] = []
        self.answers: list[Callable[[str], None]] = []

    def publish_async(self, _channel: str, data: bytes, answered: Callable[[str], None]) -> str:
        self.published.append(data)
        self.answers.append(answered)
        return str(len(self.published))

    def forget_unanswered(self) -> list[str]:
        return []


def publisher(client: Any, *messages: bytes) -> command.Publisher:
    return command.Publisher(client, "c", iter(messages))


async def test_run_ends_when_everything_is_stored() -> None:
    client = Client()
    publishing = publisher(client, b"1", b"2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publishing.run)
        await trio.testing.wait_all_tasks_blocked()
        assert client.published == [b"1", b"2"]
        for answer in client.answers:
            answer("")
    assert publishing.stored == 2


async def test_unanswered_publishes_are_repeated() -> None:
    client = Client()
    publishing = publisher(client, b"1", b"2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publishing.run)
        await trio.testing.wait_all_tasks_blocked()
        client.answers[0]("")
        client.nats.on_disconnect()
        await trio.testing.wait_all_tasks_blocked()
        assert client.published == [b"1", b"2", b"2"]
        client.answers[1]("")
        client.answers[2]("")
    assert publishing.stored == 2
    assert publishing.published_again == 1


async def test_a_refusal_is_raised() -> None:
    client = Client()
    publishing = publisher(client, b"1")
    async with trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(RefusedError, match="no such client"):
                await publishing.run()

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        client.answers[0]("no such client")


def test_a_server_needs_a_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "c", "x", "--server", "localhost"]) == 2
    assert "expected host:port" in capsys.readouterr().err


def test_an_invalid_channel_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "a..b", "x"]) == 2
    assert "not a valid channel name" in capsys.readouterr().err
