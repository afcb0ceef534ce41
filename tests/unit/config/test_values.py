"""Parsers of configuration values: valid and invalid texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config.values import (
    Address,
    Secret,
    format_duration,
    parse_address,
    parse_duration,
    parse_size,
    parse_url,
)
from node.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("0s", 0),
        ("1ns", 1),
        ("3us", 3_000),
        ("3µs", 3_000),
        ("300ms", 300_000_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("24h", 86_400_000_000_000),
        ("-1s", -1_000_000_000),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, duration_ns: int) -> None:
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize("text", ["", "5", "1d", "s", "1s2", "1 s", "--1s", "1.s", "300000h 1s", "3000000h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@given(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1))
def test_a_duration_reads_back_as_it_was_shown(duration_ns: int) -> None:
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1_000", 1000),
        ("1k", 1000),
        ("1KB", 1024),
        ("1KiB", 1024),
        ("1MB", 1_048_576),
        ("64 MiB", 67_108_864),
        ("1GB", 1_073_741_824),
        ("2t", 2_000_000_000_000),
        ("-1", -1),
    ],
)
def test_sizes_are_read_as_nats_reads_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "1.5MB", "1XB", "1 M B", "99999999TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4222", "127.0.0.1", 4222),
        ("n1:1", "n1", 1),
        ("n1.example.com:65535", "n1.example.com", 65535),
        ("[::1]:4222", "::1", 4222),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "4222", ":4222", "host", "host:", "host:0", "host:65536", "host:-1", "::1:4222", "[n1]:4222",
     "1.2.3:4222", "256.0.0.1:1", "a b:1", "-n1:1", "[::1]", "host:4222222222222", "host:٣"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback", "unspecified"),
    [
        ("127.0.0.1", True, False),
        ("127.8.8.8", True, False),
        ("::1", True, False),
        ("localhost", True, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("n1", False, False),
        ("10.0.0.1", False, False),
        ("localhost.example.com", False, False),
    ],
)
def test_loopback_and_unspecified_addresses(host: str, loopback: bool, unspecified: bool) -> None:
    address = Address(host, 1)
    assert (address.is_loopback, address.is_unspecified) == (loopback, unspecified)


def test_a_secret_is_never_shown() -> None:
    secret = Secret("text", "hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter2")
    assert Secret("environment", "A_TOKEN").reveal() == "hunter2"
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(ConfigError, match="A_TOKEN is not set"):
        Secret("environment", "A_TOKEN").reveal()


def test_a_secret_comes_from_a_file_without_its_last_newline(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("hunter2\n")
    assert Secret("file", str(file)).reveal() == "hunter2"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (None, "No such file")],
)
def test_a_secret_file_without_a_secret_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        Secret("file", str(file)).reveal()


def test_the_error_of_a_url_shows_no_password() -> None:
    """A password may contain what separates a scheme from the rest."""
    assert parse_url("nats://ann:a://b@host").password == "a://b"
    assert parse_url("ann:a://b@host").password == "a://b"
    with pytest.raises(ValueError, match=r"not http://") as refused:
        parse_url("http://ann:a://b@host")
    assert "a://b" not in str(refused.value)
