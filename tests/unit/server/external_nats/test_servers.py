"""Which NATS servers are tried, as whom, and whom a server may send our credentials to."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config.model import NatsServer, NatsTLS
from node.config.values import Secret, ServerURL, parse_url
from node.errors import ConfigError
from node.server.external_nats import servers as external_servers
from node.server.external_nats.servers import Servers, servers, trust


def told_of(like: ServerURL, *urls: str, is_checked: bool = False) -> list[ServerURL]:
    """The servers that are tried, besides the first one, when that tells of ``urls``."""
    found = Servers([like], is_checked=is_checked)
    for _ in range(2):
        found.learn({"connect_urls": list(urls)}, like)
    tried = [found.next() for _ in range(len(found.known()) + 1)]
    assert tried[0] == tried[-1] == like
    return tried[1:-1]


def test_they_are_tried_by_turns_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_servers, "SERVERS_MAX", 3)
    here = ServerURL("127.0.0.1", 4222)
    urls = ("a:1", "nonsense", "x:0", "x:65536", "127.0.0.1:4222", "[::1]:2", "c:3")
    assert told_of(here, *urls) == [ServerURL("a", 1), ServerURL("::1", 2)]


def test_a_server_that_was_lost_is_tried_last() -> None:
    found = Servers([ServerURL("a", 1)], is_checked=False)
    lost = found.next()
    found.learn({"connect_urls": ["b:1", "c:1"]}, lost)
    found.put_last(lost)
    assert [found.next().host for _ in range(4)] == ["b", "c", "a", "b"]


def test_a_password_is_not_sent_in_plain_text_to_an_announced_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only where it was to be shown anyway, on this machine, or to whom a certificate is asked of."""
    ann = ServerURL("10.0.0.1", 4222, user="ann", password="pw")
    urls = ("10.0.0.1:4223", "127.0.0.1:4222", "[::1]:4222", "localhost:4224", "10.0.0.2:4222", "evil.com:1")
    assert [str(url) for url in told_of(ann, *urls)] == [
        "nats://10.0.0.1:4223", "nats://127.0.0.1:4222", "nats://[::1]:4222", "nats://localhost:4224",
    ]  # fmt: skip
    assert caplog.text.count("evil.com:1") == 1
    assert "pw" not in caplog.text
    assert len(told_of(ServerURL("10.0.0.1", 4222, token="t"), *urls)) == 4
    assert len(told_of(ServerURL("10.0.0.1", 4222), *urls)) == 6, "there is nothing to show"


def test_over_tls_all_are_tried_and_asked_for_it() -> None:
    """Also where the URL didn't say so, but the server that tells of them did."""
    over_tls = ServerURL("10.0.0.1", 4222, user="ann", password="pw", is_tls=True)
    found = told_of(over_tls, "10.0.0.2:4222", "127.0.0.1:1", is_checked=True)
    assert [str(url) for url in found] == ["tls://10.0.0.2:4222", "tls://127.0.0.1:1"]
    found = told_of(over_tls, "10.0.0.2:4222", "10.0.0.1:2")
    assert [str(url) for url in found] == ["tls://10.0.0.1:2"], "elsewhere, nobody proves who he is"


def test_credentials_in_the_url_come_first() -> None:
    config = NatsServer(
        urls=(parse_url("nats://ann:pw@a"), parse_url("tok@b"), parse_url("c:1")),
        user="bob",
        password=Secret("text", "x"),
    )
    found = [(url.user, url.password, url.token) for url in servers(config)]
    assert found == [("ann", "pw", ""), ("", "", "tok"), ("bob", "x", "")]


def test_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match="can't be used"):
        trust(NatsTLS(ca=tmp_path / "ca.pem"))
