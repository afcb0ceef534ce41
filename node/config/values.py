"""Parsers of the words of a configuration: durations, sizes, addresses, secrets.

Each parser takes the text of the file and raises ``ValueError`` with the expected form. `load` adds the place
(file, line, column).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

from node.errors import ConfigError
from node.units import MILLISECOND, SECOND

MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

_DURATION_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter: keyboards differ, Go takes both
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_DURATION_PART = re.compile(r"(\d+)(?:\.(\d+))?(ns|us|µs|μs|ms|s|m|h)")
DURATION_MAX_NS: Final = 2**63 - 1
"""292 years: the maximum on the wire and of a Go duration."""

_SIZE = re.compile(r"(-?\d+(?:_\d+)*)\s*([a-zA-Z]*)")
_SIZE_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{
        unit: factor
        for power, letter in enumerate("kmgt", start=1)
        for unit, factor in (
            (letter, 1000**power),
            (f"{letter}b", 1024**power),
            (f"{letter}ib", 1024**power),
        )
    },
}
"""``1k`` is 1000, ``1KB`` and ``1KiB`` are 1024. Source: the NATS configuration language."""

SIZE_MAX: Final = 2**63 - 1

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def parse_duration(text: str) -> int:
    """Parse a duration such as ``300ms``, ``2m`` or ``1h30m`` into nanoseconds; ``0`` needs no unit.

    Raises:
        ValueError: not a duration, or longer than 292 years.
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits == "0":
        return 0
    total, at = 0, 0
    while part := _DURATION_PART.match(digits, at):
        whole, fraction, unit = part.groups()
        factor = _DURATION_UNITS[unit]
        total += int(whole) * factor
        if fraction:
            total += int(fraction) * factor // 10 ** len(fraction)
        at = part.end()
    if at == 0 or at != len(digits):
        raise ValueError("expected a duration such as 300ms, 2m or 1h30m")
    if total > DURATION_MAX_NS:
        raise ValueError("expected a duration of at most 292 years")
    return sign * total


def format_duration(duration_ns: int) -> str:
    """Return the shortest text that `parse_duration` parses into ``duration_ns``."""
    if duration_ns == 0:
        return "0s"
    sign, left = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    parts = []
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, left = divmod(left, _DURATION_UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return sign + "".join(parts)


def parse_size(text: str) -> int:
    """Parse a size such as ``1GB``, ``64MiB`` or ``4096`` into bytes.

    Raises:
        ValueError: not a size, or 8 EiB or more.
    """
    found = _SIZE.fullmatch(text)
    factor = _SIZE_UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError("expected a size such as 64KB, 1MB or 1GiB, or a number of bytes")
    size = int(found[1]) * factor
    if size > SIZE_MAX:
        raise ValueError("expected a size below 8 EiB")
    return size


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host and a TCP port. ``host`` is a name or an IP address, IPv6 without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach it. The only such name is ``localhost``."""
        ip = _ip(self.host)
        return ip.is_loopback if ip else self.host.rstrip(".").lower() == "localhost"

    @property
    def is_unspecified(self) -> bool:
        """Return whether it is ``0.0.0.0`` or ``::``: valid for listening, not for dialling."""
        ip = _ip(self.host)
        return ip is not None and ip.is_unspecified


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_address(text: str) -> Address:
    """Parse ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: not an address, or a port outside 1 to 65535.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed or not re.fullmatch(r"[0-9]{1,9}", port):
        raise ValueError("expected an address such as 127.0.0.1:4222, n1.example.com:4222 or [::1]:4222")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, not {port}")
    looks_numeric = bracketed or re.fullmatch(r"[0-9.]+", host) is not None
    if (looks_numeric and _ip(host) is None) or (not looks_numeric and not _HOST_NAME.fullmatch(host)):
        raise ValueError(f"expected a host name or an IP address before the port, not {host!r}")
    return Address(host, int(port))


@dataclass(frozen=True, slots=True)
class Secret:
    """A password, token or key, or its location. Neither ``repr`` nor ``str`` shows it.

    ``source`` is the meaning of ``text``: the secret itself, the name of an environment variable, or
    the path of a file whose content (without a final newline) is the secret.
    """

    source: Literal["text", "environment", "file"]
    text: str

    def __repr__(self) -> str:
        where = {"text": "***", "environment": f"environment variable {self.text}", "file": self.text}
        return f"Secret({where[self.source]})"

    __str__ = __repr__

    def reveal(self) -> str:
        """Return the secret.

        Raises:
            ConfigError: the variable is not set, or the file is empty or can't be read.
        """
        if self.source == "text":
            return self.text
        if self.source == "environment":
            found = os.environ.get(self.text, "")
            if not found:
                raise ConfigError(
                    [f"environment variable {self.text} is not set; the configuration reads a secret from it"]
                )
            return found
        try:
            found = Path(self.text).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError([f"secret file {self.text} can't be read: {reason}"]) from error
        if not found:
            raise ConfigError([f"secret file {self.text} is empty"])
        return found


@dataclass(frozen=True, slots=True)
class ServerURL:
    """The address of a NATS server, with credentials. Neither ``repr`` nor ``str`` shows a secret."""

    host: str
    port: int
    user: str = ""
    password: str = ""
    token: str = ""
    is_tls: bool = False

    def __repr__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.is_tls else 'nats'}://{host}:{self.port}"

    __str__ = __repr__


NATS_PORT: Final = 4222


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)


def parse_url(text: str, default_port: int = NATS_PORT) -> ServerURL:
    """Parse ``nats://user:password@host:port``; scheme, credentials and port are optional.

    Raises:
        ValueError: not such a URL. The text never contains the part before ``@``.
    """
    found = _SCHEME.match(text.strip())
    scheme, rest = (found[1], found[2]) if found else ("", text.strip())  # a password may contain "://"
    if scheme and scheme.lower() not in ("nats", "tls", "nats-route"):
        raise ValueError(f"expected a URL that starts with nats:// or tls://, not {scheme}://")
    credentials, _, address = rest.rstrip("/").rpartition("@")
    user, colon, password = (unquote(part) for part in credentials.partition(":"))
    host, has_port, port = address.rpartition(":")
    if not has_port or (address.endswith("]") and address.startswith("[")):
        host, port = address, str(default_port)
    try:
        parsed = parse_address(f"{host}:{port}")
    except ValueError as error:
        raise ValueError(f"invalid address in the URL: {error}") from None
    return ServerURL(
        parsed.host,
        parsed.port,
        user=user if colon else "",
        password=password,
        token="" if colon else user,
        is_tls=scheme.lower() == "tls",
    )
