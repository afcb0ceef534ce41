"""A client made of a socket: it can say anything, and sees every byte of the answer.

Other things may come before an answer: a subscription to a pattern hears clients of other tests, and INFO is
sent whenever addresses change. `Wire.answers`, `Wire.hello` and `Wire.ask` take their own answer out of the
stream; everything before and behind it stays, in order, for `Wire.line` and `Wire.message`.
"""

from __future__ import annotations

import itertools
import socket
from types import TracebackType
from typing import Self

from node.protocol import nats, streaming

TIMEOUT_S = 10.0


class Wire:
    """One connection to a node's client port, with INFO read and nothing sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._inboxes = itertools.count(1)
        self._left = b""
        self.info = self.line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line, without its end; empty when the server has closed."""
        while b"\r\n" not in self._left:
            data = self._receive()
            if not data:
                return b""
            self._left += data
        line, self._left = self._left.split(b"\r\n", 1)
        return line

    def rest(self) -> bytes:
        """Everything until the server closes, which it has to."""
        while data := self._receive():
            self._left += data
        return self._left

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:  # it closed while we were still sending
            return b""

    def hello(self, options: bytes = b'{"verbose":false,"headers":true,"no_responders":true}') -> None:
        """CONNECT, and wait for the answer."""
        self.send(b"CONNECT " + options + b"\r\n")
        assert self.answers(), self.left()

    def answers(self) -> bool:
        """Whether a PING is answered by PONG. Messages and INFO lines that come before it are kept.

        False if an error comes first, which is kept as well, or the server closes.
        """
        self.send(nats.PING)
        at = 0
        while True:
            line, _, end = self._operation(at)
            if line == b"PONG":
                self._left = self._left[:at] + self._left[end:]
                return True
            if not line or line.startswith(b"-ERR"):
                return False
            at = end

    def nothing_came(self) -> bool:
        """Whether the answer to a PING is the next thing that comes: nothing else was sent before it."""
        self.send(nats.PING)
        return self.line() == b"PONG"

    def message(self) -> bytes:
        """The payload of the next message; a line that is none is returned as it is."""
        line, payload, end = self._operation(0)
        self._left = self._left[end:]
        return line if payload is None else payload

    def _operation(self, at: int) -> tuple[bytes, bytes | None, int]:
        """Read the operation that begins at a place of what was received; nothing is taken.

        Returns:
            Its line (empty when the server has closed), its payload if it is a message, and its end.
        """
        while (end := self._left.find(b"\r\n", at)) < 0:
            data = self._receive()
            if not data:
                return b"", None, at
            self._left += data
        line = self._left[at:end]
        begin = end + 2
        words = line.split(b" ")
        if words[0] not in (b"MSG", b"HMSG"):
            return line, None, begin
        end = begin + int(words[-1])
        while len(self._left) < end + 2:
            data = self._receive()
            if not data:
                raise ConnectionError(f"closed after {len(self._left) - begin} of {end - begin} bytes")
            self._left += data
        return line, self._left[begin:end], end + 2

    def payload(self, size: int) -> bytes:
        """The payload behind the line of a message.

        Raises:
            ConnectionError: the server closed in the middle of it.
        """
        while len(self._left) < size + 2:
            data = self._receive()
            if not data:
                raise ConnectionError(f"closed after {len(self._left)} of {size} bytes")
            self._left += data
        payload, self._left = self._left[:size], self._left[size + 2 :]
        return payload

    def left(self) -> bytes:
        """What was read from the socket and not taken yet; it is taken by this."""
        left, self._left = self._left, b""
        return left

    def ask(self, subject: str, payload: bytes) -> bytes:
        """Send a request; the payload of the first answer, or the line of an error if one comes first.

        What comes before it on other subscriptions is kept. Empty if the server closes.
        """
        number = next(self._inboxes)
        inbox = f"_INBOX.wire.{id(self)}.{number}".encode()
        sid = b"wire.%d" % number  # never one of a test's own
        self.send(nats.sub(inbox, b"", sid) + nats.pub(subject.encode(), inbox, payload))
        at = 0
        while True:
            line, answer, end = self._operation(at)
            if answer is None and line and not line.startswith(b"-ERR"):
                at = end
                continue
            if answer is not None and line.split(b" ")[2] != sid:
                at = end
                continue
            self._left = self._left[:at] + self._left[end:]
            if line:
                self.send(nats.unsub(sid, None))
            return line if answer is None else answer

    def register(self, client_id: str, cluster_id: str = "test-cluster") -> streaming.ConnectResponse:
        """Open a streaming session; who asks for its heartbeat isn't answered."""
        request = streaming.ConnectRequest(client_id, f"_INBOX.hb.{client_id}", 1, client_id.encode(), 5, 3)
        answer = self.ask(f"_STAN.discover.{cluster_id}", streaming.encode_connect(request))
        return streaming.decode_connect_response(answer)
