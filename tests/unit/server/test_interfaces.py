"""The addresses announced to clients."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from node.config.values import Address
from node.server import interfaces
from node.server.interfaces import reachable_addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "n1.example.com", "fe80::1"])
def test_a_specific_address_is_announced_unchanged(host: str) -> None:
    assert reachable_addresses(Address(host, 4222)) == [Address(host, 4222)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # not listened on
def test_unspecified_addresses_are_announced_as_interface_addresses(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the Go server: no loopback and no link-local addresses."""
    own = ["127.0.0.1", "2001:db8::7", "fe80::1", "::1", "192.168.1.5", "10.0.0.9", "10.0.0.9", "169.254.3.3"]
    monkeypatch.setattr(interfaces, "_interface_addresses", lambda: own)
    announced = [str(one) for one in reachable_addresses(Address(host, 4222))]
    assert announced == ["192.168.1.5:4222", "10.0.0.9:4222", "[2001:db8::7]:4222"]


def test_a_machine_with_only_the_loopback_announces_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_interface_addresses", lambda: ["127.0.0.1", "::1"])
    assert reachable_addresses(Address("0.0.0.0", 1)) == [Address("127.0.0.1", 1)]  # not listened on


def test_a_failed_request_to_the_kernel_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> list[str]:
        raise PermissionError("not here")

    monkeypatch.setattr(interfaces, "_interface_addresses", refuse)
    assert reachable_addresses(Address("0.0.0.0", 1)) == [Address("127.0.0.1", 1)]  # not listened on
    assert "not here" in caplog.text


def test_the_kernel_returns_at_least_the_loopback() -> None:
    found = interfaces._interface_addresses()
    assert "127.0.0.1" in found
    assert all(ipaddress.ip_address(one) for one in found)


def test_the_local_address_of_a_point_to_point_link_is_used() -> None:
    def attribute(kind: int, host: str) -> bytes:
        return struct.pack("=HH", 8, kind) + socket.inet_aton(host)

    message = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
    assert interfaces.address(message + attribute(1, "10.0.0.2") + attribute(2, "10.0.0.1")) == ["10.0.0.1"]
    assert interfaces.address(message + attribute(1, "10.0.0.2")) == ["10.0.0.2"]
    assert interfaces.address(struct.pack("=BBBBI", 7, 0, 0, 0, 1)) == []


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"\xff" * 10, struct.pack("=IHHII", 400, 20, 0, 1, 0)])
def test_parsing_a_malformed_reply_ends(data: bytes) -> None:
    list(interfaces.messages(data))
