"""Asking a node's monitoring: one page, one value."""

from __future__ import annotations

import http.client
import json
from functools import partial
from typing import Any, Final

import trio

from node.config.model import Node
from node.config.values import Address
from node.errors import UnavailableError

ANSWER_SIZE_MAX: Final = 256 * 1024 * 1024
"""Bytes. More isn't a page of ours."""


def monitoring_address(node: Node) -> Address | None:
    """Where to ask a node. If it listens on every address, at the one its clients or peers use."""
    if node.http is None or not node.http.is_unspecified:
        return node.http
    known = (address for address in (node.client, node.peer, node.advertise) if address is not None)
    host = next((address.host for address in known if not address.is_unspecified), "127.0.0.1")
    return Address(host, node.http.port)


async def ask(address: Address, path: str, *, token: str = "", timeout_s: float = 2.0) -> Any:
    """The value of the page at ``path``. An unhealthy ``/healthz`` has a value too.

    Raises:
        UnavailableError: it can't be reached, takes too long, or answers something else.
    """
    page = partial(_ask, address, path, token, timeout_s)
    with trio.move_on_after(2 * timeout_s):
        return await trio.to_thread.run_sync(page, abandon_on_cancel=True)
    raise UnavailableError("can't be reached: takes too long")


def _ask(address: Address, path: str, token: str, timeout_s: float) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            body = answer.read(ANSWER_SIZE_MAX)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnavailableError(f"can't be reached: {reason.lower()}") from error
    finally:
        connection.close()
    if answer.status not in (200, 503):
        text = body[:200].decode(errors="replace").strip()
        raise UnavailableError(f"answers {answer.status} to {path}: {text}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise UnavailableError(f"answers something that is not JSON to {path}") from error
