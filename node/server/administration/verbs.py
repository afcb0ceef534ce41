"""The operators' requests about channels, subscriptions, clients and settings, served by any node.

A *read* is answered from what this node has applied: it may be a moment behind the leader, but shows only
committed state. A *change* is one replicated command in this node's own session, like a client's request. It
is executed once, whichever node leads meanwhile, and answered when this node has applied it. Without a leader
it waits, but at most ``timeout_s``: an entry that applies it later refuses it.

A subscription is selected by its number, or by its names: channel, durable, queue, client. A request about a
cursor (seek, pause) accepts any of the subscriptions that share it.

A plain object without I/O, except for reads from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from typing import Any, Final, Protocol

from node.core.commands import (
    ChannelDelete,
    ChannelPurge,
    ClientKick,
    Command,
    Configure,
    SeekTo,
    SubscriptionPause,
    SubscriptionRemove,
    SubscriptionSeek,
)
from node.core.effects import Outcome, Refused
from node.core.settings import Settings
from node.core.state import Channel, Client, State, Subscription
from node.errors import RefusedError
from node.server.administration import views
from node.server.administration.peeking import Messages, peek
from node.server.administration.requests import Answer, Kind
from node.server.clock import ClusterClock
from node.units import SECOND

TIMEOUT_S: Final = 10.0
TIMEOUT_MAX_S: Final = 300.0

Fields = dict[str, Any]

_PAGE: Final[dict[str, Kind]] = {"limit": int}
_NAMES: Final[dict[str, Kind]] = {"id": int, "channel": str, "client": str, "durable": str, "queue": str}
_CHANGE: Final[dict[str, Kind]] = {"timeout_s": (int, float)}


class Requests(Protocol):
    """This node's session, `server.origin.Origin`, as used here."""

    def submit(self, command: Command, answer: Callable[[Outcome], None] | None = None) -> None: ...
    def flush(self) -> None: ...


class Registry(Protocol):
    """`server.administration.requests.Administration`, as used here."""

    def register(
        self,
        verb: str,
        handler: Callable[[Fields, Answer], None],
        *,
        required: dict[str, Kind] | None = None,
        optional: dict[str, Kind] | None = None,
    ) -> None: ...


class Administering:
    """The verbs. Each handler takes the request's fields and the answer callback.

    Args:
        state: returns the replicated state.
        requests: this node's session.
        clock: cluster time.
        wall_clock_ns: Unix time, for a seek to a duration ago.
        messages: returns the store. Raises `UnavailableError` while it can't be read.
    """

    def __init__(
        self,
        *,
        state: Callable[[], State],
        requests: Requests,
        clock: ClusterClock,
        wall_clock_ns: Callable[[], int],
        messages: Callable[[], Messages],
    ) -> None:
        self._state = state
        self._requests = requests
        self._clock = clock
        self._wall_clock_ns = wall_clock_ns
        self._messages = messages

    def register(self, registry: Registry) -> None:
        """Register all verbs."""
        named: dict[str, Kind] = {"channel": str}
        add = registry.register
        add("channel.ls", self._list_channels, optional={**_PAGE, "after": str})
        add("channel.info", self._show_channel, required=named)
        peeked: dict[str, Kind] = {"start": int, "count": int, "data_max": int}
        add("channel.peek", self._peek, required=named, optional=peeked)
        add("channel.purge", self._purge, required=named, optional={**_CHANGE, "up_to": int})
        add("channel.rm", self._delete_channel, required=named, optional={**_CHANGE, "force": bool})
        listed: dict[str, Kind] = {"channel": str, "client": str, "paused": bool, "offline": bool}
        add("subscription.ls", self._list_subscriptions, optional={**_PAGE, "after": int, **listed})
        add("subscription.info", self._show_subscription, optional=_NAMES)
        removed: dict[str, Kind] = {"group": bool, "force": bool}
        add("subscription.rm", self._remove_subscription, optional={**_NAMES, **_CHANGE, **removed})
        place: dict[str, Kind] = {"to": str}
        add("subscription.seek", self._seek, required=place, optional={**_NAMES, **_CHANGE, "value": int})
        add("subscription.pause", self._pause, optional={**_NAMES, **_CHANGE})
        add("subscription.resume", self._resume, optional={**_NAMES, **_CHANGE})
        add("client.ls", self._list_clients, optional={**_PAGE, "after": str})
        add("client.info", self._show_client, required={"client": str})
        add("client.kick", self._kick, required={"client": str}, optional=_CHANGE)
        add("config.show", self._show_settings)
        changed: dict[str, Kind] = {**_CHANGE, "dry_run": bool}
        add("config.apply", self._configure, required={"settings": dict}, optional=changed)

    # --- channels ---------------------------------------------------------------------------------

    def _list_channels(self, fields: Fields, answer: Answer) -> None:
        things = self._state().channels.items()
        limit, after = fields.get("limit", views.PAGE_MAX), fields.get("after")
        answer({"ok": views.page(things, after, limit, views.channel, "channels")})

    def _show_channel(self, fields: Fields, answer: Answer) -> None:
        answer({"ok": views.channel_in_full(self._state(), self._channel(fields))})

    def _peek(self, fields: Fields, answer: Answer) -> None:
        seen = peek(
            self._messages(),
            self._channel(fields),
            start=fields.get("start", 1),
            count=fields.get("count", 10),
            data_max=fields.get("data_max", 4096),
        )
        answer({"ok": seen})

    def _purge(self, fields: Fields, answer: Answer) -> None:
        channel = self._channel(fields)
        up_to = fields.get("up_to")
        if up_to is not None and not 0 < up_to < 1 << 63:
            raise RefusedError(f"{up_to} is not a sequence")
        command = ChannelPurge(channel.name, up_to or 0, self._valid_until(fields))

        def purged() -> Any:
            after = self._state().channels.get(channel.name)
            return views.channel(after) if after is not None else None

        self._change(command, answer, purged)

    def _delete_channel(self, fields: Fields, answer: Answer) -> None:
        channel = self._channel(fields)
        command = ChannelDelete(channel.name, fields.get("force", False), self._valid_until(fields))
        deleted = views.channel(channel)
        self._change(command, answer, lambda: deleted)

    def _channel(self, fields: Fields) -> Channel:
        channel = self._state().channels.get(fields["channel"])
        if channel is None:
            raise RefusedError(f"there is no channel {fields['channel']!r}")
        return channel

    # --- subscriptions ----------------------------------------------------------------------------

    def _list_subscriptions(self, fields: Fields, answer: Answer) -> None:
        wanted = {key: value for key, value in fields.items() if key not in ("limit", "after")}
        things = (
            (int(number), subscription)
            for number, subscription in self._state().subscriptions.items()
            if not wanted or _matches(subscription, wanted)
        )
        limit, after = fields.get("limit", views.PAGE_MAX), fields.get("after")
        answer({"ok": views.page(things, after, limit, views.subscription, "subscriptions")})

    def _show_subscription(self, fields: Fields, answer: Answer) -> None:
        answer({"ok": views.subscription_in_full(self._state(), self._subscription(fields, shared=True))})

    def _remove_subscription(self, fields: Fields, answer: Answer) -> None:
        whole = fields.get("group", False)
        subscription = self._subscription(fields, shared=whole)
        command = SubscriptionRemove(
            subscription.id, whole, fields.get("force", False), self._valid_until(fields)
        )
        removed = views.subscription(subscription)
        self._change(command, answer, lambda: removed)

    def _seek(self, fields: Fields, answer: Answer) -> None:
        subscription = self._subscription(fields, shared=True)
        to, value = self._place(fields["to"], fields.get("value"))
        command = SubscriptionSeek(subscription.id, int(to), value, self._valid_until(fields))
        self._change(command, answer, self._view_later(subscription))

    def _place(self, to: str, value: int | None) -> tuple[SeekTo, int]:
        """Return the target of a seek as the command has it: a duration ago becomes a time."""
        targets = {"end": SeekTo.END, "first": SeekTo.FIRST, "last": SeekTo.LAST}
        if to in targets and value is None:
            return targets[to], 0
        if value is not None and 0 <= value < 1 << 63:
            if to == "sequence":
                return SeekTo.SEQUENCE, value
            if to == "time":
                return SeekTo.TIME, value
            if to == "ago":
                return SeekTo.TIME, max(0, self._wall_clock_ns() - value)
        raise RefusedError(
            "expected first, last or end, or a sequence, time (Unix ns) or ago (ns) and its value"
        )

    def _pause(self, fields: Fields, answer: Answer) -> None:
        self._set_paused(fields, answer, paused=True)

    def _resume(self, fields: Fields, answer: Answer) -> None:
        self._set_paused(fields, answer, paused=False)

    def _set_paused(self, fields: Fields, answer: Answer, *, paused: bool) -> None:
        subscription = self._subscription(fields, shared=True)
        command = SubscriptionPause(subscription.id, paused, self._valid_until(fields))
        self._change(command, answer, self._view_later(subscription))

    def _subscription(self, fields: Fields, *, shared: bool) -> Subscription:
        """Return the selected subscription. With ``shared`` any one of those that share its cursor.

        Raises:
            RefusedError: no subscription matches, or several do.
        """
        names = {key: fields[key] for key in _NAMES if key in fields}
        if not names:
            raise RefusedError(
                "no subscription selected: give its id, or its channel, durable, queue or client"
            )
        subscriptions = self._state().subscriptions
        number = names.get("id")
        among = list(subscriptions.values()) if not number else []
        if number in subscriptions:
            among = [subscriptions[number]]
        found = [each for each in among if _matches(each, names)]
        if not found:
            given = ", ".join(f"{key} {value}" for key, value in names.items())
            raise RefusedError(f"there is no subscription with {given}")
        if len({each.group.id if shared else each.id for each in found}) > 1:
            ids = ", ".join(str(each.id) for each in found[:10])
            raise RefusedError(f"{len(found)} subscriptions match, {ids} among them: name one by its id")
        return found[0]

    def _view_later(self, subscription: Subscription) -> Callable[[], Any]:
        def show() -> Any:
            after = self._state().subscriptions.get(subscription.id)
            return views.subscription(after) if after is not None else None

        return show

    # --- clients ----------------------------------------------------------------------------------

    def _list_clients(self, fields: Fields, answer: Answer) -> None:
        things = self._state().clients.items()
        limit, after = fields.get("limit", views.PAGE_MAX), fields.get("after")
        answer({"ok": views.page(things, after, limit, views.client, "clients")})

    def _show_client(self, fields: Fields, answer: Answer) -> None:
        answer({"ok": views.client_in_full(self._client(fields))})

    def _kick(self, fields: Fields, answer: Answer) -> None:
        client = self._client(fields)
        kicked = views.client(client)
        self._change(ClientKick(client.id, self._valid_until(fields)), answer, lambda: kicked)

    def _client(self, fields: Fields) -> Client:
        client = self._state().clients.get(fields["client"])
        if client is None:
            raise RefusedError(f"there is no client {fields['client']!r}")
        return client

    # --- settings ---------------------------------------------------------------------------------

    def _show_settings(self, _fields: Fields, answer: Answer) -> None:
        answer({"ok": self._state().settings.values()})

    def _configure(self, fields: Fields, answer: Answer) -> None:
        """Change the replicated settings; with ``dry_run`` only report the differences."""
        wanted = Settings.of(fields["settings"])
        changes = changes_of(self._state().settings, wanted)
        if fields.get("dry_run", False) or not changes:
            answer({"ok": {"changes": changes, "applied": False}})
            return
        values = wanted.values()
        del values["set"]
        command = Configure(values, only_if_unset=False)
        self._change(command, answer, lambda: {"changes": changes, "applied": True})

    # --- changing ---------------------------------------------------------------------------------

    def _valid_until(self, fields: Fields) -> int:
        timeout_s: float = fields.get("timeout_s", TIMEOUT_S)
        if not 0 < timeout_s <= TIMEOUT_MAX_S:
            raise RefusedError(f"waiting is for up to {TIMEOUT_MAX_S:g} s, not {timeout_s}")
        return self._clock.now() + round(timeout_s * SECOND)

    def _change(self, command: Command, answer: Answer, result: Callable[[], Any]) -> None:
        def decided(outcome: Outcome) -> None:
            if isinstance(outcome, Refused):
                answer({"error": outcome.text})
            else:
                answer({"ok": result()})

        self._requests.submit(command, decided)
        self._requests.flush()


def changes_of(old: Settings, new: Settings) -> dict[str, Any]:
    """Return the differences by name, as ``[old, new]``; of channels' own limits by pattern."""
    changes: dict[str, Any] = {}
    for name in (field.name for field in fields_of(Settings) if field.name not in ("set", "channels")):
        was, becomes = getattr(old, name), getattr(new, name)
        if was != becomes:
            changes[name] = [was, becomes]
    patterns = [*old.channels, *(pattern for pattern in new.channels if pattern not in old.channels)]
    for pattern in patterns:
        was, becomes = old.channels.get(pattern), new.channels.get(pattern)
        if was != becomes:
            changes[f"channels.{pattern}"] = [was, becomes]
    if not old.set and not changes:
        changes["set"] = [False, True]
    return changes


def _matches(subscription: Subscription, wanted: Mapping[str, Any]) -> bool:
    has = {
        "id": subscription.id,
        "channel": subscription.channel.name,
        "client": subscription.client_id,
        "durable": subscription.durable,
        "queue": subscription.queue,
        "paused": subscription.group.paused_ns is not None,
        "offline": not subscription.online,
    }
    return all(has[key] == value for key, value in wanted.items())
