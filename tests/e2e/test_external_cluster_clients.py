"""The real clients' tests once more, on a cluster behind a NATS cluster that nobody here wrote.

The tests are those of `test_clients` and `test_clients_failover`; only the cluster is another. Not among
them are those of what a client's own node keeps for it when the leader dies: here every request goes to the
leader, and one that dies with it is the client's to repeat.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e.external_cluster import ExternalCluster, needs_nats_server
from e2e.harness import Cluster
from e2e.ports import Guard, Ports
from e2e.test_clients import (
    at,
    test_durable_goes_on_where_it_stopped,
    test_durable_queue_group_is_kept,
    test_publish_and_receive,
    test_queue_group_shares,
    test_redelivery_after_ack_wait,
    test_refusals_reach_the_application,
    test_replaced_client_is_told,
)
from e2e.test_clients_failover import test_queue_member_killed_with_its_process

__all__ = [
    "at",
    "test_durable_goes_on_where_it_stopped",
    "test_durable_queue_group_is_kept",
    "test_publish_and_receive",
    "test_queue_group_shares",
    "test_queue_member_killed_with_its_process",
    "test_redelivery_after_ack_wait",
    "test_refusals_reach_the_application",
    "test_replaced_client_is_told",
]


@pytest.fixture(scope="module")
def shared_cluster(ports: Ports, guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    needs_nats_server()
    cluster = ExternalCluster(tmp_path_factory.mktemp("cluster"), ports, guard)
    yield cluster
    cluster.end()
