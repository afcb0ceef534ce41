"""The monitoring pages over HTTP: paths, queries, JSON.

`views` and `nats_views` make the content of a page. Here the yields of a page become checkpoints, and its
JSON is encoded and sent piece by piece, all under one `Pacer`, so that readers don't delay the cluster.
`admission` limits the connections, and `gate` checks the access.

Importing Starlette takes a while, so it is imported when a server is started. `connection` handles bytes and
requests. An exception in a page is a bug and is logged as one. It ends the connection that requested the
page, but not the node, which has more important tasks.
"""

from __future__ import annotations

import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from node.errors import NodeError
from node.limited_log import LimitedLog
from node.monitor import account_views, nats_views, views
from node.monitor.admission import Admission
from node.monitor.connection import serve_connection
from node.monitor.figures import Source
from node.monitor.gate import HEALTH, Gate
from node.monitor.loop_sharing import Pacer
from node.monitor.process import ProcessMeter
from node.monitor.query import BadQueryError, NotFoundError, Query
from node.monitor.rendering import Steps, View, pieces
from node.sockets import listen

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("stanchion.monitor")
complaints = LimitedLog(log)
"""Limits the log lines that readers can cause at any rate."""

CHUNK_CHARS: Final = 32 * 1024
"""About this much of a page is encoded before it is sent."""

REQUEST_S: Final = 0.0003
"""Cost of a request in addition to its page: reading it, finding the page, writing the head. Measured."""

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.]{0,127}", re.ASCII)

_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""Headers of every page: browsers show it only to pages of this server."""

Page: TypeAlias = Callable[[Query], View | Steps]


def application(
    source: Source,
    *,
    token: str = "",
    base_path: str = "/",
    names: Iterable[str] = (),
    jsonp: bool = False,
    figures_open: bool = False,
) -> ASGIApp:
    """Return the pages of ``source`` as an ASGI application.

    Args:
        source: the node.
        token: required as ``Authorization: Bearer``; empty: none is required.
        base_path: the prefix of every path.
        names: host names that requests may use; see `gate`.
        jsonp: whether ``callback`` returns JavaScript, which any page in a browser can read.
        figures_open: whether some pages need no token; see `gate`.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route

    requests: Counter[str] = Counter()
    meter = ProcessMeter()
    pacer, probes = Pacer(), Pacer()
    pages: dict[str, Page] = {
        "/varz": lambda query: nats_views.varz(source, meter.look(), requests, base_path),
        "/connz": lambda query: nats_views.connz(source, query),
        "/routez": lambda query: nats_views.routez(source, query),
        "/subsz": lambda query: nats_views.subsz(source, query),
        "/subscriptionsz": lambda query: nats_views.subsz(source, query),
        "/accountz": lambda query: account_views.accountz(source, query),
        "/accstatz": lambda query: account_views.accstatz(source, query),
        "/gatewayz": lambda query: account_views.gatewayz(source),
        "/leafz": lambda query: account_views.leafz(source, query),
        "/jsz": lambda query: account_views.jsz(source, query),
        "/ipqueuesz": lambda query: account_views.ipqueuesz(),
        "/raftz": lambda query: views.raftz(source),
        "/streaming/serverz": lambda query: views.serverz(source, meter.look()),
        "/streaming/storez": lambda query: views.storez(source),
        "/streaming/clientsz": lambda query: views.clientsz(source, query),
        "/streaming/channelsz": lambda query: views.channelsz(source, query),
        "/streaming/raftz": lambda query: views.raftz(source),
    }

    class Sent(Response):
        """Encodes a view while it is sent."""

        def __init__(self, view: View, callback: str) -> None:
            media_type = "application/javascript" if callback else "application/json"
            super().__init__(media_type=media_type, headers=_HEADERS)
            del self.headers["content-length"]
            self._callback = callback
            self._pieces = pieces(view)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            first, more = await self._chunk()
            start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            opening, closing = (f"{self._callback}(", ")") if self._callback else ("", "")
            if not more:
                body = f"{opening}{first}{closing}".encode()
                start["headers"] = [*self.raw_headers, (b"content-length", b"%d" % len(body))]
                await send(start)
                await send({"type": "http.response.body", "body": body})
                return
            await send(start)
            chunk = opening + first
            while more:
                await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
                chunk, more = await self._chunk()
            await send({"type": "http.response.body", "body": f"{chunk}{closing}".encode()})

        async def _chunk(self) -> tuple[str, bool]:
            """Return the next part of the text, and whether there is more."""
            gathered: list[str] = []
            size = 0
            more = True
            while more and size < CHUNK_CHARS:
                some, more = await pacer.some(self._pieces)
                gathered += some
                size += sum(map(len, some))
            return "".join(gathered), more

    def route(path: str, page: Page) -> Route:
        async def endpoint(request: Request) -> Response:
            requests[path] += 1
            query = Query(request.query_params)
            callback = query.text("callback")
            try:
                if callback and not jsonp:
                    raise BadQueryError("callback: JSONP is switched off (monitoring.jsonp)")
                if callback and not _CALLBACK.fullmatch(callback):
                    raise BadQueryError(f"Error decoding callback: {callback!r} is not a function's name")
                made = await pacer.step(lambda: page(query))
                view = made if isinstance(made, dict) else await _made(made, pacer)
            except NotFoundError as error:
                return PlainTextResponse(f"{error}\n", 404)
            except BadQueryError as error:
                return PlainTextResponse(f"{error}\n", 400)
            return Sent(view, callback)

        return Route(path, endpoint, methods=["GET"])

    async def healthz(request: Request) -> Response:
        requests[HEALTH] += 1
        is_healthy, view = views.healthz(source)
        text = json.dumps(view, separators=(",", ":"))
        return Response(text, 200 if is_healthy else 503, media_type="application/json", headers=_HEADERS)

    async def is_ft_active(request: Request) -> Response:
        return Response(status_code=204)  # nodes of a cluster have no standby to be active instead of

    prefix = base_path.rstrip("/")

    def index(path: str, links: list[str]) -> Route:
        body = _index(source.identity.name, [f"{prefix}{link}" for link in links])

        async def endpoint(request: Request) -> Response:
            return HTMLResponse(body, headers=_HEADERS)

        return Route(path, endpoint, methods=["GET"])

    streaming = [path for path in pages if path.startswith("/streaming/")]
    routes = [
        index("/", [*(path for path in pages if path not in streaming), HEALTH, "/streaming"]),
        index("/streaming", streaming),
        Route(HEALTH, healthz, methods=["GET"]),
        Route("/streaming/isFTActive", is_ft_active, methods=["GET"]),
        *(route(path, page) for path, page in pages.items()),
    ]
    app: ASGIApp = Starlette(routes=[Mount(prefix, routes=routes)] if prefix else routes)
    return _Guarded(app, Gate(token, names, base_path, figures_open=figures_open), pacer, probes)


def prepare() -> None:
    """Import what `serve` needs. Runs in a worker thread, so that a running node is not delayed."""
    import starlette.applications
    import starlette.responses
    import starlette.routing  # noqa: F401


async def _made(steps: Steps, pacer: Pacer) -> View:
    """Return the view, made in steps."""
    made: list[View] = []

    def parts() -> Iterator[None]:
        made.append((yield from steps))

    more, each = True, parts()
    while more:
        _, more = await pacer.some(each)
    return made[0]


def _index(name: str, links: list[str]) -> str:
    items = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    return f"<!doctype html><title>{name}</title><h1>{name}</h1><ul>{items}</ul>"


class _Guarded:
    """Passes requests that the `Gate` allows, in order. Health probes wait only for other probes."""

    def __init__(self, app: ASGIApp, gate: Gate, pacer: Pacer, probes: Pacer) -> None:
        self._app = app
        self._gate = gate
        self._pacer = pacer
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        path, headers = scope["path"], dict(scope["headers"])
        reader = scope["client"][0] if scope["client"] else ""
        turns = self._probes if path.endswith(HEALTH) else self._pacer
        refusal = await turns.step(lambda: self._gate.refusal(path, headers, reader), REQUEST_S)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, text = refusal
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await PlainTextResponse(f"{text}\n", status, headers)(scope, receive, send)


async def serve(
    source: Source,
    address: tuple[str, int],
    token: str = "",
    *,
    base_path: str = "/",
    names: Iterable[str] = (),
    jsonp: bool = False,
    figures_open: bool = False,
    sockets: Sequence[socket.socket] = (),
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the pages of ``source`` until cancelled; cancelling closes every connection at once.

    Args:
        source: the node.
        address: host and port to listen on; port 0 for any.
        token: required as ``Authorization: Bearer``; empty: none is required.
        base_path: the prefix of every path.
        names: host names that requests may use; see `gate`.
        jsonp: whether ``callback`` returns JavaScript.
        figures_open: whether some pages need no token; see `gate`.
        sockets: sockets that already listen. If empty or closed, the address is bound.
        task_status: reports the address once it listens.

    Raises:
        NodeError: it can't listen on the address.
    """
    app = application(
        source, token=token, base_path=base_path, names=names, jsonp=jsonp, figures_open=figures_open
    )
    admission = Admission(trio.current_time)

    async def handle(stream: trio.SocketStream) -> None:
        try:
            host = str(stream.socket.getpeername()[0])
        except OSError:  # the reader has disconnected already
            await trio.aclose_forcefully(stream)
            return
        scope = trio.CancelScope()
        slot = admission.admit(host, scope.cancel)
        try:
            with scope:
                await serve_connection(stream, app, slot, host)
        except* trio.BrokenResourceError as gone:
            log.debug("a reader of monitoring has gone: %s", gone.exceptions[0])
        except* Exception:
            complaints.exception("a request to monitoring failed")
        finally:
            admission.leave(slot)
            await trio.aclose_forcefully(stream)

    host, port = address
    try:
        given = [one for one in sockets if one.fileno() >= 0]
        opened = given or await trio.to_thread.run_sync(listen, host, port)
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in opened]
    except OSError as error:
        raise NodeError(f"monitoring can't listen on {host}:{port}: {error.strerror or error}") from error
    name = listeners[0].socket.getsockname()
    task_status.started((name[0], name[1]))
    await trio.serve_listeners(handle, listeners)
