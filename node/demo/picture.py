"""Draw the live screen of the demo with rich, from `Show` and the current time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from node.demo.show import Countdown, Line, NodeView, Redelivery, Show

T = TypeVar("T")

ROLE_STYLES: Final = {"leader": "bold black on green", "follower": "green", "candidate": "bold yellow"}
LINE_STYLES: Final = {
    "kill": "bold red",
    "pause": "bold magenta",
    "election": "bold green",
    "client": "yellow",
    "phase": "dim",
}
REASON_STYLES: Final = {"due": "cyan", "redistributed": "yellow", "came back": "magenta"}
REASONS: Final = {
    "due": "AckWait expired",
    "redistributed": "its member died",
    "came back": "connection broke",
}
BAR: Final = 24
LINES_SHOWN: Final = 11
LINES_MAX: Final = 14
WIDE: Final = 100
"""Columns of a screen with all details."""
ROWS: Final = 9
NARROW_ROWS: Final = 6
"""Countdowns shown on a narrow screen."""
HEIGHT: Final = 22
"""Lines of the screen without the two lists of events."""


def picture(show: Show, now_s: float, *, lines: int = LINES_SHOWN, width: int = WIDE) -> RenderableType:
    """Draw the whole screen at ``now_s``; with fewer details if it has fewer than `WIDE` columns."""
    wide = width >= WIDE
    halves = Table.grid(expand=True, padding=(0, 1, 0, 0))
    halves.add_column(ratio=1)
    halves.add_column(ratio=1)
    halves.add_row(_nodes(show, now_s, wide=wide), _channels(show, wide=wide))
    if not wide:
        text = Text("\n").join([_timeline(show, lines + 2), _total(show)])
        return Group(
            _head(show, now_s, wide=wide),
            halves,
            _panel("events", text),
            _countdowns(show, now_s, NARROW_ROWS),
        )
    halves.add_row(
        _panel("redeliveries: subscriber and reason", _redeliveries(show, lines)),
        _panel("events", _timeline(show, lines)),
    )
    return Group(_head(show, now_s, wide=wide), halves, _countdowns(show, now_s))


def screen_lines(height: int) -> int:
    """Return the number of lines of each list of events on a screen of ``height`` lines."""
    return max(2, min(LINES_MAX, height - HEIGHT))


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, title_align="left", box=box.ROUNDED, border_style="dim")


def _head(show: Show, now_s: float, *, wide: bool) -> Text:
    stored, delivered, acked = show.rates
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(" stanchion demo " if wide else " demo ", "bold white on blue")
    text.append(f"  {now_s - show.started_s:5.1f} s  ", "bold")
    text.append(f"{show.phase}  ", "bold cyan")
    text.append(f"{stored:4.0f} published/s {delivered:5.0f} delivered/s ")
    if wide:
        text.append(f" {acked:5.0f} acknowledged/s  ")
        text.append(f"{show.unanswered} publishes pending", "bold red" if show.unanswered > 50 else "dim")
    return text


def _nodes(show: Show, now_s: float, *, wide: bool) -> RenderableType:
    table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
    for name in ("node", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "commit", "applied", "clients") if wide else ("term", "applied"):
        table.add_column(name, justify="right", no_wrap=True)
    for view in show.nodes.values():
        figures: tuple[str, ...] = (str(view.term), str(view.applied))
        if wide:
            figures = (str(view.term), str(view.commit), str(view.applied), str(view.clients))
        style = "dim" if view.role in ("down", "starting") or view.is_paused else ""
        table.add_row(Text(view.name, "bold"), _role(view), *(Text(figure, style) for figure in figures))
    since_s = show.leaderless_since_s
    if since_s is None:
        return _panel("nodes: term, commit and applied index" if wide else "nodes", table)
    title = f"[bold red]no leader for {(now_s - since_s) * 1000:.0f} ms[/]"
    return _panel(title, table)


def _role(view: NodeView) -> Text:
    if view.is_paused:
        return Text(" paused ", "bold white on magenta")
    if view.role == "down":
        return Text(" killed ", "bold white on red")
    return Text(f" {view.role} ", ROLE_STYLES.get(view.role, "dim"))


def _channels(show: Show, *, wide: bool) -> Panel:
    table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
    table.add_column("channel", no_wrap=True)
    columns = ("messages", "bytes", "subscriptions", "unacked") if wide else ("messages", "unacked")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for channel in show.channels[:3]:
        unacked = sum(sub["pending_count"] for sub in channel.get("subscriptions", []))
        more = (f"{channel['bytes'] / 1024:,.0f} KiB", str(channel["subs_count"])) if wide else ()
        table.add_row(Text(channel["name"], "bold"), str(channel["msgs"]), *more, str(unacked))
    return _panel(f"channels (seen by {show.seen_by or '-'})", table)


def _countdowns(show: Show, now_s: float, most: int = ROWS) -> Panel:
    table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
    table.add_column("AckWait", justify="right", no_wrap=True)
    table.add_column("message", justify="right", no_wrap=True)
    table.add_column("sent", justify="right", no_wrap=True)
    table.add_column("redelivery in", no_wrap=True, ratio=1)
    for each in show.countdowns[:most]:
        table.add_row(
            f"{each.ack_wait_s:g} s", str(each.seq), _times(each.deliveries), _countdown(each, show, now_s)
        )
    subscriber = show.countdowns[0].cursor if show.countdowns else "a subscriber"
    title = f"unacknowledged messages of {subscriber}, until redelivery (seen by {show.seen_by or '-'})"
    return _panel(title, table)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _countdown(each: Countdown, show: Show, now_s: float) -> Text:
    left_s = max(0.0, each.due_s - now_s)
    filled = round(BAR * min(1.0, left_s / each.ack_wait_s))
    style = (
        "red" if left_s < 0.15 * each.ack_wait_s else "yellow" if left_s < 0.4 * each.ack_wait_s else "cyan"
    )
    text = Text(no_wrap=True)
    text.append("━" * filled, style)
    text.append("─" * (BAR - filled), "dim")
    if left_s > 0:
        text.append(f" {left_s:5.1f} s", "bold")
    else:
        waits = show.leaderless_since_s is not None
        text.append("   due" + (", waiting for a leader" if waits else ""), "bold red")
    return text


def _redeliveries(show: Show, count: int) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    for each in _last(show.redeliveries, count - 1):
        text.append(f"{each.at_s - show.started_s:5.1f} ", "dim")
        text.append(f"{_sequences(each)} → ", "bold")
        text.append(f"{each.subscriber} ")
        wait = each.cursor.rpartition(", ")[2]
        text.append(f"({wait}) " if wait.endswith(" s") else "")
        text.append(f"{REASONS.get(each.reason, each.reason)}\n", REASON_STYLES.get(each.reason, ""))
    text.append_text(_total(show))
    return text


def _total(show: Show) -> Text:
    total = ", ".join(
        f"{count} ({REASONS.get(reason, reason)})" for reason, count in sorted(show.reasons.items())
    )
    return Text(f"redelivered: {total or 'nothing'}", "dim", no_wrap=True, overflow="ellipsis")


def _sequences(each: Redelivery) -> str:
    if len(each.seqs) == 1:
        return f"{each.seqs[0]}"
    return f"{len(each.seqs)} messages"


def _timeline(show: Show, count: int) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for each in _last(show.timeline, count):
        text.append(f"{each.at_s - show.started_s:5.1f} ", "dim")
        text.append(f"{each.text}\n", LINE_STYLES.get(each.kind, ""))
    text.rstrip()
    return text


def _last(items: Iterable[T], count: int) -> list[T]:
    return list(items)[-count:]


def plain(line: Line, started_s: float) -> str:
    """Format a line of the timeline as plain text."""
    return f"{line.at_s - started_s:6.1f} s  {line.text}"
