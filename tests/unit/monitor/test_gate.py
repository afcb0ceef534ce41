"""Tokens and names."""

from __future__ import annotations

import pytest

from node.monitor.gate import Gate


def test_a_token_is_compared_whole() -> None:
    gate = Gate("hunter2")
    assert gate.refusal("/varz", {b"authorization": b"Bearer hunter2", b"host": b"any.example"}) is None
    for given in ({}, {b"authorization": b"Bearer hunter"}, {b"authorization": b"hunter2"}):
        assert gate.refusal("/varz", given) == (401, "a token is needed")


@pytest.mark.parametrize(
    "host",
    [
        b"[::1]:8222",
        b"::1",
        b"LOCALHOST",
        b"a.localhost:8222",
        b"n1.example:1",
        b"",
        b"n1:80",
        b"n.ns.svc",
        b"n.local.",
    ],
)
def test_allowed_host_names(host: bytes) -> None:
    assert Gate(names=["N1.example"]).refusal("/varz", {b"host": host}) is None


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"[", b"a:b:c", b"\xff", b"n1.example.x:1"]
)
def test_names_that_are_not(host: bytes) -> None:
    refusal = Gate(names=["n1.example"]).refusal("/varz", {b"host": host})
    assert refusal is not None
    assert refusal[0] == 403


def test_a_star_is_every_name() -> None:
    assert Gate(names=["*"]).refusal("/varz", {b"host": b"any.example"}) is None


def test_health_is_served_under_any_name_below_the_base_path() -> None:
    gate = Gate(base_path="/nats/")
    assert gate.refusal("/nats/healthz", {b"host": b"balancer.example"}) is None
    assert gate.refusal("/healthz", {b"host": b"balancer.example"}) is not None


@pytest.mark.parametrize(
    ("path", "reader", "is_shown"),
    [
        ("/healthz", "10.0.0.1", True),
        ("/varz", "10.0.0.1", True),
        ("/streaming/serverz", "2001:db8::1", True),
        ("/", "10.0.0.1", True),
        ("/connz", "10.0.0.1", False),
        ("/streaming/channelsz", "2001:db8::1", False),
        ("/streaming/channelsz", "", False),
        ("/connz", "127.0.0.1", True),
        ("/connz", "::1", True),
    ],
)
def test_figures_are_for_all_and_the_rest_for_this_machine(path: str, reader: str, is_shown: bool) -> None:
    gate = Gate(figures_open=True, base_path="/nats")
    refusal = gate.refusal(f"/nats{path}", {b"host": b"10.0.0.2:8222"}, reader)
    assert (refusal is None) == is_shown
    if refusal is not None:
        assert refusal[0] == 403
        assert "monitoring.token" in refusal[1]


def test_with_a_token_figures_need_none_and_the_rest_does() -> None:
    gate = Gate("hunter2", figures_open=True)
    assert gate.refusal("/varz", {b"host": b"10.0.0.2"}, "10.0.0.1") is None
    assert gate.refusal("/connz", {b"host": b"10.0.0.2"}, "127.0.0.1") == (401, "a token is needed")
    right = {b"authorization": b"Bearer hunter2", b"host": b"any.example"}
    assert gate.refusal("/connz", right, "10.0.0.1") is None


def test_figures_are_not_shown_to_a_page_that_has_its_name_resolve_here() -> None:
    gate = Gate(figures_open=True)
    refusal = gate.refusal("/varz", {b"host": b"evil.example"}, "10.0.0.1")
    assert refusal is not None
    assert refusal[0] == 403
