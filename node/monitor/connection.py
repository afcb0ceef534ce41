"""One connection to the monitoring port: parses requests, and writes the answers of an application.

Anyone may send bytes to this port, in a process that also has a cluster's log. So only little is supported:
HTTP/1.1 as implemented by h11, one request after the other. The head of a request is limited in size and
time. No body is read, and a connection that sends one ends after the answer. A request for another protocol
is answered in this one. A violation of HTTP is answered with an error, and the connection is closed.
(Hypercorn was used here before: its WebSockets and HTTP/2 answered some malformed requests with exceptions
that ended the node.)

The application is ASGI, as far as pages need it: no lifespan, no request streams.

Source: RFC 9112; the ASGI specification 3.0, "HTTP".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote

import trio

if TYPE_CHECKING:
    import h11

    from node.monitor.admission import Slot

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

HEAD_BYTES_MAX: Final = 16 * 1024
"""Largest head of a request: its first line and its headers."""
READ_TIMEOUT_S: Final = 15.0
"""Limit for a whole head, from the start of the connection or the end of the last answer."""
WRITE_TIMEOUT_S: Final = 10.0
"""Limit for one write. A slower reader is disconnected."""
_READ_BYTES: Final = 16 * 1024

_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")


async def serve_connection(
    stream: trio.SocketStream, app: App, slot: Slot | None = None, reader: str = ""
) -> None:
    """Answer requests until either end closes the connection. ``slot`` is informed of each request.

    ``reader`` is the IP address of the other end.

    Raises:
        trio.BrokenResourceError: the reader has disconnected, or reads too slowly.
    """
    import h11

    wire = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
    try:
        while (request := await _request(stream, wire)) is not None:
            if slot is not None:
                slot.begin(request.target)
            await _Answer(stream, wire, request, reader).of(app)
            if slot is not None:
                slot.end()
            if wire.states != {h11.SERVER: h11.DONE, h11.CLIENT: h11.DONE}:
                return
            wire.start_next_cycle()
    except h11.RemoteProtocolError as error:
        if wire.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = b"not HTTP as this server speaks it\n"
            headers = [("Content-Length", str(len(body))), ("Content-Type", "text/plain"), _CLOSE]
            response = h11.Response(status_code=error.error_status_hint, headers=headers)
            await _write(stream, b"".join(map(_bytes(wire), (response, h11.Data(data=body)))))


async def _request(stream: trio.SocketStream, wire: h11.Connection) -> h11.Request | None:
    """Return the head of the next request; None if there is none.

    Raises:
        h11.RemoteProtocolError: the bytes are not an HTTP/1 request.
    """
    import h11

    with trio.move_on_after(READ_TIMEOUT_S):
        while (event := wire.next_event()) is h11.NEED_DATA:
            wire.receive_data(await stream.receive_some(_READ_BYTES))
        if isinstance(event, h11.Request):
            if event.method == b"CONNECT" or event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("another protocol", error_status_hint=501)
            wire.next_event()  # its end, if it has no body
            return event
    return None


class _Answer:
    """The answer to one request, which passes from the application to the stream."""

    def __init__(
        self, stream: trio.SocketStream, wire: h11.Connection, request: h11.Request, reader: str
    ) -> None:
        import h11

        self._reader = reader
        self._stream = stream
        self._wire = wire
        self._request = request
        self._has_body = wire.their_state is h11.SEND_BODY
        self._is_head = request.method == b"HEAD"

    async def of(self, app: App) -> None:
        """Let the application answer, and send the answer."""
        await app(self._scope(), self._receive, self._send)

    def _scope(self) -> dict[str, Any]:
        request = self._request
        path, _, query = _AUTHORITY.sub(b"", request.target, count=1).partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode(),
            "method": request.method.decode(),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "client": (self._reader, 0),
            "server": None,
        }

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        import h11

        events: list[h11.Event] = []
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), ("Date", formatdate(usegmt=True))]
            if self._has_body:
                headers.append(_CLOSE)
            events.append(h11.Response(status_code=message["status"], headers=headers))
        else:
            if message.get("body") and not self._is_head:
                events.append(h11.Data(data=message["body"]))
            if not message.get("more_body"):
                events.append(h11.EndOfMessage())
        await _write(self._stream, b"".join(map(_bytes(self._wire), events)))


_CLOSE: Final = ("Connection", "close")


def _bytes(wire: h11.Connection) -> Any:
    return lambda event: wire.send(event) or b""


async def _write(stream: trio.SocketStream, data: bytes) -> None:
    with trio.move_on_after(WRITE_TIMEOUT_S) as scope:
        await stream.send_all(data)
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the reader is too slow")
