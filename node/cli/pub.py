"""Publish to a channel, and wait until a majority of the nodes has stored every message.

DATA is one message; - reads messages from standard input, one per line. Without DATA the message
consists of --size dots. If a node dies, messages without an acknowledgement are published again to
another node; they may then be stored twice.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Final

from node.cli.target import add_client
from node.errors import RefusedError, UnavailableError

if TYPE_CHECKING:
    from node.client import Client

IN_FLIGHT_MAX: Final = 1024
"""Messages published and not yet acknowledged."""

ANSWER_S: Final = 30.0
"""The command fails if no acknowledgement arrives for this long."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of ``stanchion pub``."""
    parser.add_argument("channel", metavar="CHANNEL", help="name of the channel, such as orders.new")
    parser.add_argument("data", metavar="DATA", nargs="?", help="the message, or - for standard input")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="publish the message N times (1)")
    parser.add_argument("--size", type=int, default=0, metavar="B", help="size of the generated message (0)")
    add_client(parser)


def run(args: argparse.Namespace) -> int:
    """Publish; return 0 if every message was stored."""
    import trio

    from node.cli.session import run_until_stopped, session

    async def work() -> int:
        began = trio.current_time()
        async with session(args) as client:
            publisher = Publisher(client, args.channel, messages(args.data, args.count, args.size))
            await publisher.run()
        seconds = trio.current_time() - began
        count, again = publisher.stored, publisher.published_again
        summary = f"{count} {'message' if count == 1 else 'messages'} stored"
        if count > 1:
            summary += f" in {seconds:.1f} s"
        if again:
            summary += f"; {again} published again after the connection to a node broke"
        print(summary)
        return 0

    return run_until_stopped(work)


def messages(data: str | None, count: int, size: int) -> Iterator[bytes]:
    """Yield the messages to publish."""
    if data == "-":
        return (line.rstrip("\r\n").encode() for line in sys.stdin)
    return repeat(b"." * size if data is None else data.encode(), count)


class Publisher:
    """Publish messages, several in flight, and publish again those that a dead node did not acknowledge."""

    def __init__(self, client: Client, channel: str, messages: Iterator[bytes]) -> None:
        import trio

        self._client = client
        self._channel = channel
        self._messages = enumerate(messages)
        self._unanswered: dict[int, bytes] = {}
        self._again: deque[tuple[int, bytes]] = deque()
        self._answered = trio.Event()
        self._error = ""
        self.stored = 0
        self.published_again = 0
        client.nats.on_disconnect = self._disconnected

    async def run(self) -> None:
        """Publish until everything is stored.

        Raises:
            RefusedError: the cluster refused a message.
            UnavailableError: no acknowledgement for ``ANSWER_S``.
        """
        while (each := self._next()) is not None:
            while len(self._unanswered) >= IN_FLIGHT_MAX:
                await self._wait()
            await self._publish(*each)
        while self._unanswered or self._again:
            if self._again:
                await self._publish(*self._again.popleft())
            else:
                await self._wait()

    def _next(self) -> tuple[int, bytes] | None:
        return self._again.popleft() if self._again else next(self._messages, None)

    async def _publish(self, number: int, data: bytes) -> None:
        import trio

        self._unanswered[number] = data
        with trio.move_on_after(ANSWER_S):
            while True:
                await self._client.nats.connected.wait()
                try:
                    self._client.publish_async(self._channel, data, partial(self._answer, number))
                except UnavailableError:
                    await trio.sleep(0.01)  # the connection broke just now
                else:
                    break
        if self._error:
            raise RefusedError(self._error)

    async def _wait(self) -> None:
        import trio

        self._answered = trio.Event()
        with trio.move_on_after(ANSWER_S):
            await self._answered.wait()
        if self._error:
            raise RefusedError(self._error)
        if not self._answered.is_set():
            raise UnavailableError(f"no acknowledgement for {ANSWER_S:g} s; see `stanchion status`")

    def _answer(self, number: int, error: str) -> None:
        if self._unanswered.pop(number, None) is None:
            return
        self._error = self._error or error
        self.stored += not error
        self._answered.set()

    def _disconnected(self) -> None:
        """Publish unacknowledged messages again: the node may or may not have forwarded them."""
        self._client.forget_unanswered()
        self.published_again += len(self._unanswered)
        self._again.extend(self._unanswered.items())
        self._unanswered.clear()
        self._answered.set()
