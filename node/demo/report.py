"""The result of the demo: as JSON for programs, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from node.demo.checker import EARLY_S, LATE_S, Verdict, handed_over, silence
from node.demo.history import Delivery, History, Hit

GAP_MAX_S: Final = 1.5
"""The longest allowed time without a publish acknowledgement around a kill or pause."""

TIMES: Final = ("late", "gap")
"""Rules about durations. On a busy machine their results mean little."""

BUSY_S: Final = 0.1
"""If a task of the demo itself ran later than this, the machine is busy: durations are shown, not checked."""

VIOLATIONS_SHOWN_MAX: Final = 20


def report(
    history: History,
    verdict: Verdict,
    *,
    seed: int,
    seconds: float,
    load_s: tuple[float, float],
    end_s: float,
    held_up_s: float = 0.0,
    failure: str = "",
    patient: bool = False,
) -> dict[str, Any]:
    """Build the report of a run.

    Args:
        history: the recorded events.
        verdict: the result of the checker; violations of `GAP_MAX_S` are added.
        seed: the seed of the demo.
        seconds: duration of the whole run.
        load_s: start and end of publishing.
        end_s: end of the observation.
        held_up_s: the longest delay of a task of the demo itself.
        failure: why the script did not finish; empty if it did.
        patient: show durations, do not check them.
    """
    stored_s = sorted(at_s for channel in history.stored.values() for at_s in channel.values())
    delivered_s = _first_deliveries(history)
    hits = [_hit(hit, stored_s, delivered_s, load_s[1] or end_s) for hit in history.hits]
    for hit, shown in zip(history.hits, hits, strict=True):
        if shown["publish_gap_ms"] > GAP_MAX_S * 1000:
            text = f"{shown['publish_gap_ms']:.0f} ms without a publish acknowledgement"
            verdict.broke("gap", hit.at_s, f"{hit.kind} of {hit.node}: {text}")
    is_busy = held_up_s > BUSY_S
    violated = [each for each in verdict.violations if not ((patient or is_busy) and each.rule in TIMES)]
    if not history.is_settled and not failure:
        failure = "messages were still unacknowledged after the last AckWait; see the nodes' logs"
    published = sum(len(channel) for channel in history.published.values())
    load_seconds = max(0.001, load_s[1] - load_s[0])
    declined = sum(map(len, history.declined.values()))
    return {
        "held": not violated and not failure,
        "failure": failure,
        "busy": is_busy,
        "seed": seed,
        "seconds": round(seconds, 1),
        "held_up_ms": round(held_up_s * 1000, 1),
        "published": published,
        "published_per_s": round(published / load_seconds, 1),
        "acked": len(stored_s),
        "unknown": published - len(stored_s) - len(history.refused) - declined,
        "declined": declined,
        "delivered": sum(_deliveries(history)),
        "lost": verdict.count("lost"),
        "duplicates": verdict.count("duplicate"),
        "redelivered_early": verdict.count("early"),
        "redelivered_late": verdict.count("late"),
        "count_errors": verdict.count("count"),
        "diverged": verdict.count("diverged"),
        "refused": verdict.count("refused"),
        "ackwait_error_ms": _spread(verdict.ackwait_errors_s),
        "redelivered": dict(sorted(verdict.reasons.items())),
        "redistributed": len(handed_over(history)),
        "redistributed_after_ms": _spread([after_s for _, _, after_s in handed_over(history)]),
        "kills": [shown for shown in hits if shown["kind"] == "kill"],
        "pauses": [shown for shown in hits if shown["kind"] == "pause"],
        "violations": [
            {"rule": each.rule, "at_s": round(each.at_s, 3), "text": each.text} for each in verdict.violations
        ],
    }


def _first_deliveries(history: History) -> list[float]:
    return sorted(
        event.at_s
        for cursor in history.cursors.values()
        for events in cursor.events.values()
        for event in events
        if isinstance(event, Delivery) and not event.flagged
    )


def _deliveries(history: History) -> list[int]:
    return [
        sum(isinstance(event, Delivery) for event in events)
        for cursor in history.cursors.values()
        for events in cursor.events.values()
    ]


def _hit(hit: Hit, stored_s: Sequence[float], delivered_s: Sequence[float], end_s: float) -> dict[str, Any]:
    return {
        "kind": hit.kind,
        "victim": hit.node,
        "role": hit.role,
        "at_s": round(hit.at_s, 3),
        "leaderless_ms": None if hit.ready_s is None else round((hit.ready_s - hit.at_s) * 1000, 1),
        "publish_gap_ms": round(silence(stored_s, hit, end_s) * 1000, 1),
        "delivery_gap_ms": round(silence(delivered_s, hit, end_s) * 1000, 1),
        "new_leader": hit.new_leader,
        "term": hit.term,
    }


def _spread(values_s: Sequence[float]) -> dict[str, Any]:
    """Return percentiles in milliseconds (nearest rank); None if there are no values."""
    if not values_s:
        return {"count": 0, "min": None, "p50": None, "p99": None, "max": None}
    ordered = sorted(values_s)
    ranks = {"min": 0.0, "p50": 0.5, "p99": 0.99, "max": 1.0}
    last = len(ordered) - 1
    found = {name: round(ordered[round(last * rank)] * 1000, 1) for name, rank in ranks.items()}
    return {"count": len(ordered), **found}


REASONS: Final = {
    "due": "because AckWait had expired",
    "came back": "because the connection broke and may not have delivered them",
    "redistributed": "because the queue group member that had them died",
}


def lines(report: dict[str, Any]) -> list[str]:
    """Format the report as text."""
    errors = report["ackwait_error_ms"]
    found = [
        f"published {report['published']} messages ({report['published_per_s']:.0f}/s): {report['acked']} "
        f"acknowledged, {report['unknown']} unanswered when their connection broke",
        f"delivered {report['delivered']} to all subscribers together",
        f"lost {report['lost']}: acknowledged publishes that a subscriber did not receive",
        f"duplicates {report['duplicates']}: without the redelivered flag, or after the acknowledgement "
        "was committed",
        f"redelivered early {report['redelivered_early']}: before AckWait had expired, for no reason",
        "AckWait (how long the cluster waits for an acknowledgement before it redelivers a message) across "
        "failures:",
        f"  {errors['count']} messages redelivered "
        + (
            f"{errors['min']:+.0f} to {errors['max']:+.0f} ms from their due time, "
            f"median {errors['p50']:+.0f} ms "
            f"(allowed {-EARLY_S * 1000:+.0f} to {LATE_S * 1000:+.0f}, plus the delay of publishes)"
            if errors["count"]
            else "(none was unacknowledged for so long)"
        ),
        "redelivered, with the redelivered flag:" + ("" if report["redelivered"] else " none"),
    ]
    found += [f"  {count:>5} {REASONS[reason]}" for reason, count in report["redelivered"].items()]
    if report["redistributed"]:
        after = report["redistributed_after_ms"]
        found.append(
            f"the killed queue group member had {report['redistributed']} messages: other members received "
            f"them within {after['max'] / 1000:.1f} s"
        )
    found += ["", *_hit_lines([*report["kills"], *report["pauses"]]), ""]
    for each in report["violations"][:VIOLATIONS_SHOWN_MAX]:
        word = "not checked:" if report["held"] else "VIOLATION"
        found.append(f"{word} {each['rule']} at {each['at_s']}: {each['text']}")
    more = len(report["violations"]) - VIOLATIONS_SHOWN_MAX
    if more > 0:
        found.append(f"… and {more} more")
    found.append(_verdict(report))
    return found


def _hit_lines(hits: Sequence[dict[str, Any]]) -> list[str]:
    found = [
        "leaderless: until a new leader was ready; gap: the longest time without an acknowledged publish, or",
        "without a first delivery; term: the Raft term of the new leader",
        "",
        "event  victim  new leader  term  leaderless  publish gap  delivery gap",
    ]
    for hit in sorted(hits, key=lambda hit: float(hit["at_s"])):
        leaderless = "-" if hit["leaderless_ms"] is None else f"{hit['leaderless_ms']:.0f} ms"
        found.append(
            f"{hit['kind']:<5}  {hit['victim']:<6}  {hit['new_leader']:<10}  {hit['term']:>4}"
            f"  {leaderless:>10}  {hit['publish_gap_ms']:>8.0f} ms  {hit['delivery_gap_ms']:>9.0f} ms"
        )
    return found


def _verdict(report: dict[str, Any]) -> str:
    if report["failure"]:
        return f"FAILED: {report['failure']}"
    if not report["held"]:
        text = f"VIOLATED: {len(report['violations'])} violations"
        if {each["rule"] for each in report["violations"]} <= set(TIMES):
            text += (
                ", all of them about durations. Is this machine busy with other work? "
                f"The longest delay of the demo itself was {report['held_up_ms']:.0f} ms"
            )
        return text
    times = "every AckWait kept"
    if report["violations"]:
        times = "durations not checked"
        if report["busy"]:
            times += f": this machine is busy, the demo itself was delayed by {report['held_up_ms']:.0f} ms"
    return (
        f"HELD: {len(report['kills'])} kills and {len(report['pauses'])} pauses of the leader, nothing lost, "
        f"no duplicates, {times}"
    )
