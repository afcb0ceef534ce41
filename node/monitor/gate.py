"""Who may read monitoring: tokens, and the names under which this node may be asked.

*Names.* A page in a browser may have a name of its own resolve to this node's address (DNS rebinding),
and would then read everything as if it were its own server. Its requests say that name as their ``Host``.
So without a token a request must name an IP address, a name that nobody can register (``localhost``, one
without a dot, one below a domain of `PRIVATE`), or one that the configuration knows.

``/healthz`` says no more than that the node is well or isn't: it is answered whatever the name.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

HEALTH: Final = "/healthz"
"""The page that is answered under any name."""


PRIVATE: Final = ("localhost", "local", "internal", "svc", "lan", "test", "home.arpa")
"""Domains that no registrar gives out. Source: RFC 6761, 6762 and 8375; ``svc`` is Kubernetes'."""

EVERY_NAME: Final = "*"
"""As a known name: requests may come under any."""


class Gate:
    """Decides who is answered.

    Args:
        token: what a request must carry as ``Authorization: Bearer``; empty: nothing.
        names: host names under which requests may come, besides those that nobody can register.
        base_path: what stands before every path.
    """

    def __init__(self, token: str = "", names: Iterable[str] = (), base_path: str = "/") -> None:
        self._expected = f"Bearer {token}".encode() if token else b""
        self._names = {_folded(name) for name in names}
        self._any_name = base_path.rstrip("/") + HEALTH

    def refusal(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        """Status and text for who isn't answered; None for who is."""
        if self._expected:
            if hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                return None
            return 401, "a token is needed"
        host = headers.get(b"host", b"").decode("ascii", "replace")
        if not host or path == self._any_name or self._knows(host):
            return None
        return 403, (
            f"monitoring is not served under the name {_name(host)[:80]!r}: ask by IP address, or list "
            "the name in monitoring.hosts"
        )

    def _knows(self, host: str) -> bool:
        name = _folded(_name(host))
        if name in self._names or EVERY_NAME in self._names:
            return True
        if re.fullmatch(r"[a-z0-9_-]+", name) or name.endswith(tuple(f".{domain}" for domain in PRIVATE)):
            return True
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """``host`` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _folded(name: str) -> str:
    return name.lower().rstrip(".")
