"""What of a cluster's services other clusters' clients may use, and what a routing peer may claim."""

from __future__ import annotations

import pytest

from node.server.administration.requests import subject
from node.server.routes.offered_services import is_ack_inbox, is_offered
from node.server.streaming import Subjects

TAG = b"0123456789abcdefABCDEF"


def test_the_streaming_service_is_offered() -> None:
    """Every subject a client is told when it connects, and the inbox it acknowledges to."""
    for prefix in ("_STAN.discover", "find.me"):
        of = Subjects.of("west", prefix)
        requests = [of.discover, of.pings, of.publish + ".>", of.subscribe, of.unsubscribe]
        requests += [of.subscription_close, of.close]
        assert all(is_offered("west", request.encode(), prefix) for request in requests)
        assert not any(is_offered("east", request.encode(), prefix) for request in requests)
    acks = b"_INBOX." + TAG + b".*"
    assert is_offered("west", acks)
    assert is_ack_inbox(acks)
    assert not is_ack_inbox(b"_STAN.sub.west")


@pytest.mark.parametrize(
    "pattern",
    [
        b">", b"*.>", b"_STAN.>", b"_STAN.*.west", b"_STAN.pub.*.>", b"_STAN.pub.>", b"_STAN.discover.*",
        b"orders.west", b"_INBOX.>", b"_INBOX.*.*", b"_INBOX.*", b"_INBOX." + TAG + b".>",
        b"_INBOX." + TAG + b".x", b"_INBOX.abc.*", subject("west", ">"), b"find.me.west", b"",
    ],
)  # fmt: skip
def test_nothing_else_is(pattern: bytes) -> None:
    assert not is_offered("west", pattern)


@pytest.mark.parametrize("cluster", ["", "*", ">", "a.b", "a b", "east/n1"])
def test_an_invalid_cluster_id_serves_nothing(cluster: str) -> None:
    for pattern in (f"_STAN.pub.{cluster}.>", f"_STAN.sub.{cluster}", f"_INBOX.{TAG.decode()}.*"):
        assert not is_offered(cluster, pattern.encode())
