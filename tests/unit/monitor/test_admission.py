"""Who has to go when there are too many connections."""

from __future__ import annotations

import pytest

from node.monitor.admission import ADDRESS_MAX, CONNECTIONS_MAX, FRESH_S, Admission, Slot, address_key


class Port:
    """An `Admission`, a clock, and which of its connections have been closed, by number."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.admission = Admission(lambda: self.now_s)
        self.slots: list[Slot] = []
        self.closed: list[int] = []

    def admit(self, host: str = "10.0.0.1") -> Slot:
        number = len(self.slots)
        self.slots.append(self.admission.admit(host, lambda: self.closed.append(number)))
        return self.slots[-1]


@pytest.fixture
def full() -> Port:
    """As many as one address may have, each a second younger than the one before."""
    port = Port()
    for _ in range(ADDRESS_MAX):
        port.admit()
        port.now_s += 1
    return port


def test_the_one_idle_for_longest_goes_first(full: Port) -> None:
    full.slots[0].begin(b"/varz")
    full.slots[0].end()
    full.admit()
    assert full.closed == [1]


def test_pages_go_before_probes_and_idle_ones_before_both(full: Port) -> None:
    for slot in full.slots:
        slot.begin(b"/healthz?x=1")
    full.slots[5].begin(b"/connz")
    full.slots[6].end()
    for expected in ([6], [6, 5]):
        full.admit().begin(b"/healthz")
        assert full.closed == expected


def test_a_new_connection_has_time_to_send_its_request(full: Port) -> None:
    """Readers that don't read hold all places but one: it isn't the one that another takes."""
    for slot in full.slots:
        slot.begin(b"/connz")
        full.now_s += 1
    probe = full.admit()
    full.admit().begin(b"/connz")
    probe.begin(b"/healthz")
    full.admit().begin(b"/connz")
    assert full.closed == [0, 1, 2]
    late = full.admit()
    full.now_s += FRESH_S
    full.admit()
    assert full.closed[-1] == full.slots.index(late)


def test_an_address_that_takes_all_it_can_get_leaves_places_to_others(full: Port) -> None:
    for number in range(CONNECTIONS_MAX - ADDRESS_MAX):
        full.admit(f"10.0.1.{number}")
    assert full.closed == []
    for number in range(3):
        full.admit(f"10.0.2.{number}")
    assert full.closed == [0, 1, 2]


def test_a_closed_connection_holds_no_slot(full: Port) -> None:
    full.admission.leave(full.slots[3])
    full.admit()
    assert full.closed == []


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(host: str, key: str) -> None:
    assert address_key(host) == key
