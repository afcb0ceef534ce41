"""The tests' own client finds its answers among whatever else comes, and loses nothing of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e.wire import Wire

BEFORE = b"MSG _INBOX.hb.other 1 _STAN.hb 3\r\nabc\r\nINFO {}\r\nHMSG x 2 12 16\r\nNATS/1.0\r\n\r\nPONG\r\n"


@contextmanager
def scripted(*answers: bytes) -> Iterator[Wire]:
    """A connection to a server that sends INFO, and at each PING or PUB the next of ``answers``.

    ``%s`` of an answer is the sid of the client's last subscription.
    """

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"INFO {}\r\n")
            received, sid, left = b"", b"", list(answers)
            while left and (data := connection.recv(4096)):
                received += data
                *lines, received = received.split(b"\r\n")
                for line in lines:
                    if line.startswith(b"SUB "):
                        sid = line.split(b" ")[-1]
                    if line.startswith((b"PING", b"PUB ")) and left:
                        answer = left.pop(0).replace(b"%s", sid)
                        for at in range(0, len(answer), 7):  # in drops
                            connection.sendall(answer[at : at + 7])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with Wire(listener.getsockname()[1]) as wire:
                yield wire
        finally:
            thread.join(10)


def test_messages_before_the_pong_are_kept_in_order() -> None:
    """A subscriber of ``_INBOX.>`` took another client's heartbeat for the answer to its PING."""
    with scripted(BEFORE + b"PONG\r\nMSG y 1 1\r\nz\r\n") as wire:
        assert wire.answers()
        assert [wire.message() for _ in range(4)] == [b"abc", b"INFO {}", b"NATS/1.0\r\n\r\nPONG", b"z"]


def test_a_hello_is_answered_among_other_lines() -> None:
    with scripted(b"INFO {}\r\nPONG\r\n", BEFORE + b"PONG\r\n") as wire:
        wire.hello()
        assert wire.line() == b"INFO {}"
        assert not wire.nothing_came(), "a message came first"


@pytest.mark.parametrize("answer", [b"-ERR 'Authorization Violation'\r\n", b"MSG x 1 1\r\nx\r\n"])
def test_no_pong_is_no_answer(answer: bytes) -> None:
    """An error, and a server that closes: what came stays to be read."""
    with scripted(answer) as wire:
        assert not wire.answers()
        assert wire.left() == answer


def test_an_answer_is_that_of_its_own_inbox() -> None:
    with scripted(b"%b" % BEFORE + b"MSG _INBOX.wire %s 6\r\nanswer\r\n", b"PONG\r\n") as wire:
        assert wire.ask("subject", b"") == b"answer"
        assert [wire.message() for _ in range(3)] == [b"abc", b"INFO {}", b"NATS/1.0\r\n\r\nPONG"]


def test_an_error_ends_a_request() -> None:
    with scripted(BEFORE + b"-ERR 'Permissions Violation'\r\n") as wire:
        assert wire.ask("subject", b"") == b"-ERR 'Permissions Violation'"
        assert wire.message() == b"abc"


def test_a_message_that_is_not_all_there_yet_is_not_lost() -> None:
    with scripted(b"MSG x 1 5\r\nab") as wire:
        wire.socket.settimeout(0.05)
        wire.send(b"PING\r\n")
        with pytest.raises((TimeoutError, ConnectionError)):
            wire.message()
        assert wire.left() == b"MSG x 1 5\r\nab"
