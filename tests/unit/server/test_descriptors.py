"""How many of a process's files and sockets clients may use."""

from __future__ import annotations

import resource

import pytest

from node.server.descriptors import RESERVED, connections_max, raise_limit


class System:
    """The limits that the operating system allows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limits = (1024, 524_288)
        self.refuses: Exception | None = None
        monkeypatch.setattr(resource, "getrlimit", lambda what: self.limits)
        monkeypatch.setattr(resource, "setrlimit", self._set)

    def _set(self, what: int, limits: tuple[int, int]) -> None:
        assert what == resource.RLIMIT_NOFILE
        if self.refuses is not None:
            raise self.refuses
        self.limits = limits


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


def test_the_soft_limit_is_raised_to_the_hard_limit(system: System) -> None:
    raise_limit()
    assert system.limits == (524_288, 524_288)
    assert connections_max(65_536) == 65_536
    raise_limit()
    assert system.limits == (524_288, 524_288)


@pytest.mark.parametrize("refusal", [ValueError("above the kernel's"), PermissionError("no")])
def test_if_the_limit_can_not_be_raised_fewer_connections_are_accepted(
    system: System, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A descriptor for a journal segment must always be free."""
    system.refuses = refusal
    raise_limit()
    assert connections_max(65_536) == 1024 - RESERVED
    assert "65536, but this process may open only 1024 files: 640 connections" in caplog.text
    caplog.clear()
    assert connections_max(100) == 100
    assert not caplog.text
    system.limits = (256, 256)
    assert connections_max(100) == 1


def test_without_a_limit_the_configured_number_applies(system: System) -> None:
    system.limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert connections_max(65_536) == 65_536
