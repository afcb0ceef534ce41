"""Adapts a running node to monitoring: makes the plain figures of ``monitor`` from the node's objects."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from node import __version__
from node.core.state import State
from node.monitor import figures
from node.raft.connection import Connection as Link
from node.raft.connection import round_trip_ns
from node.raft.links import ROUTE
from node.units import SECOND

if TYPE_CHECKING:
    from node.server.connection import Connection
    from node.server.node import Node


class Counted(Protocol):
    """An object with counters of messages."""

    @property
    def in_msgs(self) -> int: ...
    @property
    def in_bytes(self) -> int: ...
    @property
    def out_msgs(self) -> int: ...
    @property
    def out_bytes(self) -> int: ...


class Source(figures.Source):
    """The node as `figures.Source`. Each figure is read when it is requested."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._identity = _identity(node)

    @property
    def identity(self) -> figures.Identity:
        """See `figures.Source`."""
        return self._identity

    @property
    def state(self) -> State:
        """See `figures.Source`."""
        return self._node.replica.state

    def now_ns(self) -> int:
        """See `figures.Source`."""
        return time.time_ns()

    def cluster_time_ns(self) -> int:
        """See `figures.Source`."""
        return self._node.replica.clock.now()

    def unhealthy(self) -> str:
        """See `figures.Source`."""
        node = self._node
        if node.stopping:
            return "stopping"
        if not node.takes_part:
            return "waiting for its peers to bootstrap the cluster, or to be added to it"
        if node.replica.leader is None:
            return "no leader"
        if node.external_nats is not None and node.external_nats.problem:
            return node.external_nats.problem
        if not node.replica.caught_up:
            return "catching up with the cluster"
        return node.certificates.problem

    def warnings(self) -> Sequence[str]:
        """See `figures.Source`."""
        node = self._node
        warnings = list(node.certificates.warnings)
        if node.space is not None and node.space.warning:
            warnings.append(node.space.warning)
        if node.replica.low_space.refusal:
            warnings.append(f"publishes are refused: {node.replica.low_space.refusal}")
        return warnings

    def raft(self) -> figures.Raft:
        """See `figures.Source`."""
        engine, journal = self._node.engine, self._node.journal
        return figures.Raft(
            role=_role(engine.role),
            term=engine.term,
            leader=engine.leader,
            is_ready=engine.is_ready,
            first_index=journal.first_index,
            last_index=engine.last_index,
            durable_index=journal.durable_index,
            commit_index=engine.commit_index,
            applied_index=engine.applied_index,
            members=list(self._node.members),
            peers=[
                figures.Peer(
                    peer.name,
                    peer.connected,
                    age_ns(peer.contact_age_s),
                    peer.match,
                    peer.next,
                    peer.state,
                )
                for peer in engine.peer_states()
            ],
            learners=engine.membership.learners,
        )

    def agreement(self) -> figures.Agreement:
        """See `figures.Source`."""
        replica = self._node.replica
        behind_ns = replica.wall_clock.off_ns(replica.clock.now())
        return figures.Agreement(
            replica.wall_clock.offset_ns, replica.wall_clock.wrong, behind_ns, replica.divergence.agreed
        )

    def event_loop(self) -> figures.EventLoop:
        """See `figures.Source`."""
        loop = self._node.loop
        return figures.EventLoop(
            loop.quantile_ms(0.5), loop.quantile_ms(0.99), round(loop.longest_s * 1000, 1)
        )

    def traffic(self) -> figures.Traffic:
        """See `figures.Source`."""
        clients, replica = self._node.clients, self._node.replica
        totals: Counted = clients.counters()
        if self._node.external_nats is not None:
            totals = self._node.external_nats.routing
        return figures.Traffic(
            connections_total=clients.accepted,
            slow_consumers=clients.slow_consumers,
            in_msgs=totals.in_msgs,
            in_bytes=totals.in_bytes,
            out_msgs=totals.out_msgs,
            out_bytes=totals.out_bytes,
            streaming_in_msgs=replica.streaming.published,
            streaming_in_bytes=replica.streaming.published_bytes,
            streaming_out_msgs=replica.executor.delivered,
            streaming_out_bytes=replica.executor.delivered_bytes,
        )

    def interest(self) -> figures.Interest:
        """See `figures.Source`."""
        routing = self._node.routing
        if self._node.external_nats is not None:
            own = self._node.external_nats.routing
            return figures.Interest(own.subscription_count, inserts=own.inserts, removes=own.removes)
        remote = sum(route.subscriptions for route in self.routes())
        return figures.Interest(
            subscriptions=routing.subscription_count + remote,
            cached=routing.route_count,
            inserts=routing.inserts,
            removes=routing.removes,
            matches=routing.routes_made,
        )

    def connect_urls(self) -> Sequence[str]:
        """See `figures.Source`."""
        return self._node.context.connect_urls

    @property
    def connection_count(self) -> int:
        """See `figures.Source`."""
        return len(self._node.clients.connections)

    def connections(self, *, closed: bool) -> Iterator[figures.Connection]:
        """See `figures.Source`."""
        clients = self._node.clients
        found = list(clients.closed) if closed else list(clients.connections.values())
        return map(self._connection, found)

    def subscription_count(self) -> int:
        """See `figures.Source`."""
        return sum(len(connection.subscriptions) for connection in self._node.clients.connections.values())

    def subscriptions(self, cid: int | None = None) -> Iterator[figures.NatsSubscription]:
        """See `figures.Source`."""
        connections = self._node.clients.connections
        if cid is None:
            chosen = list(connections.values())
        else:
            chosen = [connections[cid]] if cid in connections else []
        for connection in chosen:
            for sub in list(connection.subscriptions.values()):
                yield figures.NatsSubscription(
                    _text(sub.subject),
                    _text(sub.queue),
                    _text(sub.sid),
                    connection.cid,
                    sub.delivered,
                    sub.max_msgs,
                )

    def routes(self) -> Sequence[figures.Route]:
        """See `figures.Source`."""
        node = self._node
        found = [self._route(link.hello.node, link, True) for link in node.transport.connections(ROUTE)]
        if node.remote_routes is not None:
            found += [
                self._route(key, peer.connection, node.remote_routes.is_configured(key))
                for key, peer in sorted(node.remote_routes.peers.items())
            ]
        return found

    def _route(self, name: str, link: Link, is_configured: bool) -> figures.Route:
        routing, counted = self._node.routing, link.counted
        host, _, port = link.remote.rpartition(":")
        return figures.Route(
            rid=link.number,
            name=name,
            dialled=link.dialled,
            ip=host.strip("[]"),
            port=int(port),
            start_ns=counted.start_ns,
            last_activity_ns=counted.last_ns,
            subscriptions=routing.peer_interest_count(name),
            subjects=lambda: [_text(subject) for subject in routing.peer_interest(name)],
            pending_bytes=link.queued_bytes,
            in_msgs=counted.in_frames,
            out_msgs=counted.out_frames,
            in_bytes=counted.in_bytes,
            out_bytes=counted.out_bytes,
            rtt_ns=None if link.socket is None else round_trip_ns(link.socket),
            is_configured=is_configured,
            dropped_msgs=routing.dropped.get(name, 0),
        )

    def _connection(self, connection: Connection) -> figures.Connection:
        now_s, now_ns = self._node.context.clock(), self.now_ns()

        def unix_ns(at_s: float) -> int:
            return now_ns - int((now_s - at_s) * SECOND)

        options, identity = connection.options, connection.identity
        return figures.Connection(
            cid=connection.cid,
            ip=connection.address[0],
            port=connection.address[1],
            start_ns=unix_ns(connection.started_s),
            last_activity_ns=unix_ns(connection.last_activity_s),
            subscriptions=len(connection.subscriptions),
            pending_bytes=connection.outbox_bytes,
            in_msgs=connection.in_msgs,
            out_msgs=connection.out_msgs,
            in_bytes=connection.in_bytes,
            out_bytes=connection.out_bytes,
            rtt_ns=int(connection.rtt_s * SECOND) or None,
            name=options.name,
            lang=options.lang,
            version=options.version,
            user="" if identity is None else "operator" if identity.is_operator else identity.name,
            stop_ns=unix_ns(connection.closed_s) if connection.closed else None,
            reason=connection.close_reason,
        )


def _identity(node: Node) -> figures.Identity:
    clients, http = node.config.clients, node.addresses.http
    return figures.Identity(
        name=node.name,
        cluster_id=node.config.cluster.id,
        server_id=node.context.info.server_id,
        streaming_id=secrets.token_hex(11),
        version=__version__,
        start_ns=node.started_ns,
        is_clustered=len(node.members) > 1,
        host=node.addresses.client.host,
        port=node.addresses.client.port,
        http_host=http.host if http else "",
        http_port=http.port if http else 0,
        auth_required=node.context.authenticator.required,
        auth_timeout_ns=clients.auth_timeout_ns,
        max_connections=clients.max_connections,
        max_payload=clients.max_payload,
        max_control_line=clients.max_control_line,
        max_pending=clients.max_pending,
        ping_interval_ns=clients.ping_interval_ns,
        ping_max=clients.ping_max,
        write_deadline_ns=clients.write_deadline_ns,
        peers=_peering(node),
        durability=node.config.raft.durability,
        store=node.config.store.store,
    )


def _peering(node: Node) -> figures.Peering | None:
    cluster, listen = node.config.cluster, node.addresses.peer
    if listen is None and not cluster.routes:
        return None
    others = [other.peer for name, other in cluster.nodes.items() if name != node.name]
    urls = [str(address) for address in (*others, *(cluster.routes or ())) if address is not None]
    host, port = (listen.host, listen.port) if listen is not None else ("", 0)
    return figures.Peering(host, port, urls, cluster.peer_security.mode == "mtls")


def age_ns(age_s: float | None) -> int | None:
    """Convert to nanoseconds. Returns None also for a peer that was never heard: its age is infinite."""
    return None if age_s is None or not math.isfinite(age_s) else int(age_s * SECOND)


def _role(role: str) -> Literal["leader", "follower", "candidate"]:
    return "leader" if role == "leader" else "candidate" if role == "candidate" else "follower"


def _text(subject: bytes) -> str:
    return subject.decode("utf-8", "replace")
