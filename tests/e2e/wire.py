"""A client made of a socket: it can say anything, and sees every byte of the answer."""

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
        self.send(b"CONNECT " + options + b"\r\nPING\r\n")
        assert self.line() == b"PONG"

    def answers(self) -> bool:
        """Whether the connection is served."""
        self.send(nats.PING)
        return self.line() == b"PONG"

    def message(self) -> bytes:
        """The payload of the next message; a line that is none is returned as it is."""
        line = self.line()
        words = line.split(b" ")
        if words[0] not in (b"MSG", b"HMSG"):
            return line
        return self.payload(int(words[-1]))

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
        """Send a request; the payload of the first answer."""
        number = next(self._inboxes)
        inbox = f"_INBOX.wire.{id(self)}.{number}".encode()
        self.send(nats.sub(inbox, b"", b"%d" % number) + nats.pub(subject.encode(), inbox, payload))
        answer = self.message()
        self.send(nats.unsub(b"%d" % number, None))
        return answer

    def register(self, client_id: str, cluster_id: str = "test-cluster") -> streaming.ConnectResponse:
        """Open a streaming session; who asks for its heartbeat isn't answered."""
        request = streaming.ConnectRequest(client_id, f"_INBOX.hb.{client_id}", 1, client_id.encode(), 5, 3)
        answer = self.ask(f"_STAN.discover.{cluster_id}", streaming.encode_connect(request))
        return streaming.decode_connect_response(answer)
