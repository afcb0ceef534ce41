"""Fields that machine version 2 added to the records of version 1 (R24).

Records of version 1 have a fixed number of values, and its release refuses any other number. So later fields
are written as one map of names and values at the end of the record, each only if it differs from its
default. While version 1 is in effect all added fields have their defaults. So the records are exactly those
of version 1, and a node of the older release can install a snapshot of them.

To add a field: give it a default in ``state``, and name it in `ADDED`. Set it only where a ``Feature`` is
active. A value is a number, a text, bytes, None, or a tuple or map (with text keys) of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any, Final

from .state import Channel, Client, Group, Session, State, Subscription

ADDED: Final[dict[type, tuple[str, ...]]] = {
    State: ("redelivery_paused",),
    Session: (),
    Client: ("reachable_at", "missed", "missed_ns"),
    Channel: (),
    Group: (),
    Subscription: ("answer_lost",),
}
"""Names of added fields by class, in the order in which they are written."""


def _default(kind: type, name: str) -> Any:
    (found,) = (each for each in fields(kind) if each.name == name)
    factory = found.default_factory
    return found.default if factory is MISSING else factory()


_DEFAULTS: Final = {kind: {name: _default(kind, name) for name in names} for kind, names in ADDED.items()}


def pack_added(thing: object) -> tuple[dict[str, Any], ...]:
    """Return the part of a record after the values of version 1: nothing, or a map of the added fields."""
    added = {
        name: value
        for name, default in _DEFAULTS[type(thing)].items()
        if (value := getattr(thing, name)) != default
    }
    return (added,) if added else ()


def unpack_added(thing: object, packed: Iterable[dict[str, Any]]) -> None:
    """Set the added fields that `pack_added` packed; the others keep their defaults.

    Raises:
        TypeError: the packed value is not a map.
        ValueError: another release added a field that this release does not have.
    """
    known = _DEFAULTS[type(thing)]
    for added in packed:
        if type(added) is not dict:
            raise TypeError(f"a {type(thing).__name__} with {type(added).__name__} instead of added fields")
        for name, value in added.items():
            if name not in known:
                raise ValueError(f"a {type(thing).__name__} with a field {name!r} that this release lacks")
            setattr(thing, name, value)
