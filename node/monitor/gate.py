"""Access to monitoring: tokens, and the host names that requests may use.

*Host names.* A page in a browser may resolve a name of its own to this node's address (DNS rebinding), and
could then read everything as if from its own server. Its requests have that name as their ``Host``. So
without a token a request must use an IP address, a name that can't be registered (``localhost``, one without
a dot, one below a domain of `PRIVATE`), or a configured name.

``/healthz`` shows only whether the node is healthy, so it is served under every name.

*Figures.* If so configured, pages that contain no client and no channel names (`FIGURES`) need no token.
Where there is no token, readers on the loopback interface may read the other pages too.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

HEALTH: Final = "/healthz"
"""The page that is served under every name."""


FIGURES: Final = frozenset(
    {
        "/",
        "/streaming",
        "/healthz",
        "/varz",
        "/streaming/serverz",
        "/streaming/storez",
        "/streaming/isFTActive",
    }
)
"""Pages without names of clients and channels."""

PRIVATE: Final = ("localhost", "local", "internal", "svc", "lan", "test", "home.arpa")
"""Domains that can't be registered. Source: RFC 6761, 6762 and 8375; ``svc`` is used by Kubernetes."""

EVERY_NAME: Final = "*"
"""As a configured name: every name is allowed."""


class Gate:
    """Decides which requests are answered.

    Args: token: required as ``Authorization: Bearer``; empty: none is required. names: allowed host names, in
        addition to those that can't be registered. base_path: the prefix of every path. figures_open: whether
        `FIGURES` need no token; the other pages then do, except on the loopback interface.
    """

    def __init__(
        self,
        token: str = "",
        names: Iterable[str] = (),
        base_path: str = "/",
        *,
        figures_open: bool = False,
    ) -> None:
        self._expected = f"Bearer {token}".encode() if token else b""
        self._names = {_folded(name) for name in names}
        self._prefix = base_path.rstrip("/")
        self._health_path = self._prefix + HEALTH
        self._figures_open = figures_open

    def refusal(
        self, path: str, headers: Mapping[bytes, bytes], reader: str = "127.0.0.1"
    ) -> tuple[int, str] | None:
        """Return status and text of a refusal; None if the request may be answered.

        Args:
            path: of the page.
            headers: of the request, names in lower case.
            reader: the IP address of the other end.
        """
        is_figures = self._figures_open and (path.removeprefix(self._prefix) or "/") in FIGURES
        if self._expected and not is_figures:
            if hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                return None
            return 401, "a token is needed"
        if self._figures_open and not is_figures and not _is_loopback(reader):
            return 403, "off the loopback this page needs a token, and none is configured (monitoring.token)"
        host = headers.get(b"host", b"").decode("ascii", "replace")
        if not host or path == self._health_path or self._is_allowed(host):
            return None
        return 403, (
            f"monitoring is not served under the name {_name(host)[:80]!r}: ask by IP address, or list "
            "the name in monitoring.hosts"
        )

    def _is_allowed(self, host: str) -> bool:
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


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Return ``host`` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _folded(name: str) -> str:
    return name.lower().rstrip(".")
