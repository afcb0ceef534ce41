"""Read one monitoring page of a node."""

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
"""Bytes. No page of a node is larger."""


def monitoring_address(node: Node) -> Address | None:
    """Return the node's monitoring address.

    If the node serves monitoring on every address, the host is that of its client, peer or advertised
    address.
    """
    if node.http is None or not node.http.is_unspecified:
        return node.http
    others = (address for address in (node.client, node.peer, node.advertise) if address is not None)
    host = next((address.host for address in others if not address.is_unspecified), "127.0.0.1")
    return Address(host, node.http.port)


async def ask(address: Address, path: str, *, token: str = "", timeout_s: float = 2.0) -> Any:
    """Return the decoded JSON of the page at ``path``, also if ``/healthz`` reports an unhealthy node.

    Raises:
        UnavailableError: the node can't be reached, takes too long, or sends an invalid answer.
    """
    page = partial(_ask, address, path, token, timeout_s)
    with trio.move_on_after(2 * timeout_s):
        return await trio.to_thread.run_sync(page, abandon_on_cancel=True)
    raise UnavailableError(f"can't be reached: no answer within {2 * timeout_s:g} s")


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
        raise UnavailableError(f"answered {answer.status} to {path}: {text}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise UnavailableError(f"answered {path} with something that is not JSON") from error
