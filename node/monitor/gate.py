"""Who may read monitoring: tokens, and the names under which this node may be asked.

*Names.* A page in a browser may have a name of its own resolve to this node's address (DNS rebinding),
and would then read everything as if it were its own server. Its requests say that name as their ``Host``.
So without a token a request must name an IP address, a name that nobody can register (``localhost``, one
without a dot, one below a domain of `PRIVATE`), or one that the configuration knows.

``/healthz`` says no more than that the node is well or isn't: it is answered whatever the name.

*Figures.* Where the configuration says so, pages that name no client and no channel (`FIGURES`) need no
token; readers on the loopback are shown the others too where there is no token.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

HEALTH: Final = "/healthz"
"""The page that is answered under any name."""


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
"""Pages that name no client and no channel."""

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
        figures_open: whether `FIGURES` need no token; the other pages then do, off the loopback.
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
        self._any_name = self._prefix + HEALTH
        self._figures_open = figures_open

    def refusal(
        self, path: str, headers: Mapping[bytes, bytes], reader: str = "127.0.0.1"
    ) -> tuple[int, str] | None:
        """Status and text for who isn't answered; None for who is.

        Args:
            path: of the page.
            headers: of the request, names in lower case.
            reader: the IP address that it came from.
        """
        is_figures = self._figures_open and (path.removeprefix(self._prefix) or "/") in FIGURES
        if self._expected and not is_figures:
            if hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
                return None
            return 401, "a token is needed"
        if self._figures_open and not is_figures and not _is_loopback(reader):
            return 403, "off the loopback this page needs a token, and none is configured (monitoring.token)"
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


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """``host`` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _folded(name: str) -> str:
    return name.lower().rstrip(".")
