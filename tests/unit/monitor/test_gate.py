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
def test_names_that_are_known(host: bytes) -> None:
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


def test_health_is_told_under_any_name_below_the_base_path() -> None:
    gate = Gate(base_path="/nats/")
    assert gate.refusal("/nats/healthz", {b"host": b"balancer.example"}) is None
    assert gate.refusal("/healthz", {b"host": b"balancer.example"}) is not None
