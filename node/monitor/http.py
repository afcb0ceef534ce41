"""The monitoring pages over HTTP: paths, queries, JSON, tokens.

What a page says is made by `views` and `nats_views`. Here a page's breaks become checkpoints, and JSON
of whatever length is written in a worker thread, so that nobody's curiosity holds up the cluster.

Starlette takes a while to import, so it is imported when a server is started. Bytes and requests are
`connection`'s. A page that fails is a mistake of ours and is logged as one; it costs the connection that
asked for it, not the node, which has more to do than to be looked at.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from node.errors import NodeError
from node.monitor import nats_views, views
from node.monitor.connection import converse
from node.monitor.figures import Source
from node.monitor.process import ProcessMeter
from node.monitor.query import BadQueryError, NotFoundError, Query
from node.sockets import listen

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("stanchion.monitor")

CONNECTIONS_MAX: Final = 64
"""At a time. One more is closed at once."""

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.]{0,127}", re.ASCII)

Page: TypeAlias = Callable[[Query], views.View | views.Steps]


def application(source: Source, *, token: str = "", base_path: str = "/") -> ASGIApp:
    """The pages of ``source`` as an ASGI application.

    Args:
        source: the node.
        token: what a request must carry as ``Authorization: Bearer``; empty: nothing.
        base_path: what stands before every path.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route

    requests: Counter[str] = Counter()
    meter = ProcessMeter()
    pages: dict[str, Page] = {
        "/varz": lambda query: nats_views.varz(source, meter.look(), requests, base_path),
        "/connz": lambda query: nats_views.connz(source, query),
        "/routez": lambda query: nats_views.routez(source, query),
        "/subsz": lambda query: nats_views.subsz(source, query),
        "/subscriptionsz": lambda query: nats_views.subsz(source, query),
        "/raftz": lambda query: views.raftz(source),
        "/streaming/serverz": lambda query: views.serverz(source, meter.look()),
        "/streaming/storez": lambda query: views.storez(source),
        "/streaming/clientsz": lambda query: views.clientsz(source, query),
        "/streaming/channelsz": lambda query: views.channelsz(source, query),
        "/streaming/raftz": lambda query: views.raftz(source),
    }

    def route(path: str, page: Page) -> Route:
        async def endpoint(request: Request) -> Response:
            requests[path] += 1
            query = Query(request.query_params)
            callback = query.text("callback")
            try:
                if callback and not _CALLBACK.fullmatch(callback):
                    raise BadQueryError(f"Error decoding callback: {callback!r} is not a function's name")
                made = page(query)
                view = made if isinstance(made, dict) else await _made(made)
            except NotFoundError as error:
                return PlainTextResponse(f"{error}\n", 404)
            except BadQueryError as error:
                return PlainTextResponse(f"{error}\n", 400)
            body = await trio.to_thread.run_sync(_json, view)
            if callback:
                return Response(f"{callback}({body})", media_type="application/javascript")
            return Response(body, media_type="application/json")

        return Route(path, endpoint, methods=["GET"])

    async def healthz(request: Request) -> Response:
        requests["/healthz"] += 1
        is_healthy, view = views.healthz(source)
        return Response(
            json.dumps(view, separators=(",", ":")), 200 if is_healthy else 503, media_type="application/json"
        )

    async def is_ft_active(request: Request) -> Response:
        return Response(status_code=204)  # nodes of a cluster have no standby to be active instead of

    prefix = base_path.rstrip("/")

    def index(path: str, links: list[str]) -> Route:
        body = _index(source.identity.name, [f"{prefix}{link}" for link in links])

        async def endpoint(request: Request) -> Response:
            return HTMLResponse(body)

        return Route(path, endpoint, methods=["GET"])

    streaming = [path for path in pages if path.startswith("/streaming/")]
    routes = [
        index("/", [*(path for path in pages if path not in streaming), "/healthz", "/streaming"]),
        index("/streaming", streaming),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/streaming/isFTActive", is_ft_active, methods=["GET"]),
        *(route(path, page) for path, page in pages.items()),
    ]
    app: ASGIApp = Starlette(routes=[Mount(prefix, routes=routes)] if prefix else routes)
    return _Guarded(app, token) if token else app


def prepare() -> None:
    """Import what `serve` needs. In a worker thread, so that a node that serves goes on serving."""
    import starlette.applications
    import starlette.responses
    import starlette.routing  # noqa: F401


async def _made(steps: views.Steps) -> views.View:
    """The view, with a checkpoint at each of its breaks."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            view: views.View = done.value
            return view
        await trio.lowlevel.checkpoint()


def _json(view: views.View) -> str:
    return json.dumps(view, indent=2)


def _index(name: str, links: list[str]) -> str:
    items = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    return f"<!doctype html><title>{name}</title><h1>{name}</h1><ul>{items}</ul>"


class _Guarded:
    """Lets requests through that carry the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
        else:
            refusal = PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)


async def serve(
    source: Source,
    address: tuple[str, int],
    token: str = "",
    *,
    base_path: str = "/",
    sockets: Sequence[socket.socket] = (),
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the pages of ``source`` until cancelled; cancelling closes every connection at once.

    Args:
        source: the node.
        address: host and port to listen on; port 0 for any.
        token: what a request must carry as ``Authorization: Bearer``; empty: nothing.
        base_path: what stands before every path.
        sockets: what to listen on; it listens already. Empty: the address is bound.
        task_status: told the address once it listens.

    Raises:
        NodeError: it can't listen there.
    """
    app = application(source, token=token, base_path=base_path)
    open_now: set[trio.SocketStream] = set()

    async def handle(stream: trio.SocketStream) -> None:
        try:
            if len(open_now) < CONNECTIONS_MAX:
                open_now.add(stream)
                await converse(stream, app)
        except* trio.BrokenResourceError as gone:
            log.debug("a reader of monitoring has gone: %s", gone.exceptions[0])
        except* Exception:
            log.exception("a request to monitoring failed")
        finally:
            open_now.discard(stream)
            await trio.aclose_forcefully(stream)

    host, port = address
    try:
        opened = sockets or await trio.to_thread.run_sync(listen, host, port)
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(one)) for one in opened]
    except OSError as error:
        raise NodeError(f"monitoring can't listen on {host}:{port}: {error.strerror or error}") from error
    name = listeners[0].socket.getsockname()
    task_status.started((name[0], name[1]))
    await trio.serve_listeners(handle, listeners)
