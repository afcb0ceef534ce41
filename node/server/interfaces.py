"""Find the addresses of this machine that remote clients can connect to.

A node that listens on ``0.0.0.0`` or ``::`` announces the addresses of its interfaces to clients, like the Go
server: a client that connects to ``0.0.0.0`` would connect to its own machine.

Source: rtnetlink(7), RTM_GETADDR; the Go server's ``getConnectURLs``.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
from collections.abc import Iterator
from typing import Final

from node.config.values import Address

log = logging.getLogger("stanchion.clients")

_GET_ADDRESS: Final = 22  # RTM_GETADDR
_NEW_ADDRESS: Final = 20  # RTM_NEWADDR
_DONE: Final = 3  # NLMSG_DONE
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, process
_MESSAGE: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_ADDRESS: Final = 1  # IFA_ADDRESS
_LOCAL: Final = 2  # IFA_LOCAL: of a point-to-point link it differs from IFA_ADDRESS
_REPLY_BYTES_MAX: Final = 64 * 1024
_TIMEOUT_S: Final = 1.0


def reachable_addresses(listen: Address) -> list[Address]:
    """Return the addresses to announce to clients for a listening address.

    That is ``listen`` itself, unless it is ``0.0.0.0`` or ``::``. For those it is every global unicast
    address of every interface, IPv4 first, or the loopback address if there is none.
    """
    if not listen.is_unspecified:
        return [listen]
    try:
        found = [ip for ip in map(ipaddress.ip_address, _interface_addresses()) if _is_global_unicast(ip)]
    except OSError as error:
        log.warning("can't read the addresses of the interfaces: %s; announcing 127.0.0.1 to clients", error)
        found = []
    hosts = [str(ip) for ip in sorted(found, key=lambda ip: ip.version)]
    return [Address(host, listen.port) for host in dict.fromkeys(hosts) or ["127.0.0.1"]]


def _is_global_unicast(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _interface_addresses() -> list[str]:
    """Return all addresses of all interfaces.

    Raises:
        OSError: the request to the kernel failed.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        netlink.bind((0, 0))
        size = _HEADER.size + _MESSAGE.size
        header = _HEADER.pack(size, _GET_ADDRESS, _REQUEST_DUMP, 1, 0)
        netlink.send(header + _MESSAGE.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        found: list[str] = []
        while True:
            for kind, payload in messages(netlink.recv(_REPLY_BYTES_MAX)):
                if kind == _DONE:
                    return found
                if kind == _NEW_ADDRESS:
                    found += address(payload)


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the bytes behind the header of each message in a netlink reply."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def address(payload: bytes) -> list[str]:
    """Return the address in an address message as a list; empty if it is neither IPv4 nor IPv6."""
    family = _MESSAGE.unpack_from(payload)[0]
    if family not in (socket.AF_INET, socket.AF_INET6):
        return []
    found: dict[int, bytes] = {}
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = payload[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    raw = found.get(_LOCAL) or found.get(_ADDRESS)
    return [] if raw is None else [str(ipaddress.ip_address(raw))]
