"""A running node: every part built, started and stopped in order.

The parts are plain objects. This module gives them their sockets, files, clocks and threads. One nursery
holds all tasks: a permanent failure (a disk, a bug) ends the node, and the log says why.

Signals: SIGTERM and SIGINT stop the node, SIGUSR2 stops it slowly (lame duck), SIGHUP reloads the
configuration, SIGUSR1 reopens the log file.

Exit codes: 0 stopped on request; 1 a failure; 2 the configuration or the directory can't be used. The log
says why.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import trio

from node.config.checks import exposed_files
from node.config.model import Config
from node.config.values import Address
from node.core.records import restore
from node.core.state import State
from node.errors import ConfigError, IdentityError, NodeError, UnavailableError
from node.raft.certificates import MemberCertificates
from node.raft.driver import Driver, Outlet
from node.raft.engine import Engine
from node.raft.identity import save_identity
from node.raft.links import ROUTE
from node.raft.membership import Membership
from node.raft.oversize import drop_uncommitted
from node.raft.ports import Timing
from node.server.access import authenticator
from node.server.administration.requests import Administration
from node.server.administration.verbs import Administering
from node.server.certificate_watch import CertificateWatch
from node.server.clients import Clients
from node.server.collecting import Collector
from node.server.context import ClientLimits, Context, ServerInfo
from node.server.descriptors import connections_max, raise_limit
from node.server.disk.checkpointing import Checkpointer
from node.server.disk.space_watch import SpaceWatch, Unwritten
from node.server.disk.storage import open_storage, space_of
from node.server.interfaces import reachable_addresses
from node.server.launch import Launch
from node.server.leaderless import Leaderless
from node.server.loop_watch import LoopWatch
from node.server.membership import node_identity
from node.server.membership.bootstrap import Bootstrap
from node.server.membership.members import Members
from node.server.membership.requests import serve_go_requests, serve_membership
from node.server.operator_token import operator_token
from node.server.outbox import SOFT_BYTES, bounds
from node.server.peer_links import Alone, RouteLink
from node.server.replica import Replica
from node.server.routes.offered_services import is_offered
from node.server.routes.remote_routes import BOOTSTRAPPED, STARTED, cluster_of
from node.server.routing import Routing
from node.server.settings_sync import SettingsSync
from node.server.shutdown import Shutdown
from node.server.streaming import Subjects
from node.server.system import System, boot_time_ns
from node.units import SECOND

if TYPE_CHECKING:
    from node.raft.security import Security
    from node.raft.transport import Transport
    from node.server.disk.snapshots import Snapshots
    from node.server.external_nats.link import ExternalNats
    from node.server.external_nats.routing import ExternalNatsRouting
    from node.server.external_nats.serving import Serving
    from node.server.routes.route_links import RouteLinks
    from node.store.interface import StoreInterface

log = logging.getLogger("stanchion.node")

EXISTING_CLUSTER_WAIT_S = 2.0
"""How long a node that bootstraps a cluster alone waits for nodes of an existing cluster to dial it: time for
several attempts."""
MONITORING_WAITS_S = 0.5
"""How long monitoring of a single node waits until the node serves clients. After that, probes are answered
even while the node is still reading its journal."""
ROUTE_QUEUED_MAX = 1024 * 1024
"""Bytes queued on a route link above which interest waits: messages would be delayed behind all of it."""


def run(config: Config, name: str, launch: Launch | None = None) -> int:
    """Run node ``name`` until it is asked to stop. Returns the exit code."""
    raise_limit()
    os.umask(0o077)  # files of a node are for its own user only; the log file was opened before
    for path in exposed_files(config):
        log.warning("%s contains a secret and is readable by other users: chmod 600 %s", path, path)
    errors: list[BaseException] = []
    status: int | None = None
    try:
        while status is None:  # start again after joining a cluster, with the identity that was saved
            with ExitStack() as stack:
                node = Node(config, name, stack, launch or Launch())
                status = trio.run(node.run)
    except* NodeError as group:
        errors = _leaves(group)
    for error in errors:
        log.critical("%s", error)
    if not errors:
        assert status is not None
        return status
    return 2 if isinstance(errors[0], ConfigError | IdentityError) else 1


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


class Node:
    """One node of a cluster.

    Args:
        config: the configuration of this node (``Config.for_node``).
        name: its name in ``config.cluster.nodes``.
        stack: closes the node's resources when it has ended.
        launch: the behaviour of the process around it.

    Raises:
        IdentityError: the directory belongs to another node, or another process has locked it.
        ConfigError: the pass phrase is wrong.
        CorruptionError, DiskError: the journal or the store can't be used.
    """

    def __init__(self, config: Config, name: str, stack: ExitStack, launch: Launch) -> None:
        self.config = config
        self.launch = launch
        self.name = name
        self.addresses = config.cluster.nodes[name]
        self.client_urls = (
            [self.addresses.advertise]
            if self.addresses.advertise is not None
            else reachable_addresses(self.addresses.client)
        )
        """Addresses where clients can connect to this node, also from other machines. The first is announced
        to other nodes."""
        self.started_ns = time.time_ns()
        self.shutdown = Shutdown(self)
        self.loop = LoopWatch()
        """Measures how long the rounds of the event loop take."""
        self.leaderless = Leaderless(self)
        self._served = False
        self._core_open = False
        self._changed = trio.Event()
        self._admitted = trio.Event()
        self._host = System(boot_ns=boot_time_ns)
        self._storage = open_storage(config, name, stack)
        self.identity = self._storage.identity
        self.journal = self._storage.journal
        directory = self.identity.directory if self.identity is not None else ""
        initial_voters = node_identity.initial_voters(config.cluster, name)
        since, first_members = node_identity.first_members(self.identity, initial_voters)
        recovered = None
        if self.identity is not None and self.identity.recovered_from:
            recovered = (self.identity.cluster_uuid, self.identity.recovered_from)
            node_identity.claim_log(self.journal, self.identity)
        self.routing = Routing(
            name,
            send=self._send_route,
            cluster=config.cluster.id,
            offers=self._offers,
            has_capacity=self._has_capacity,
            queued_bytes=self._queued_bytes,
        )
        external_nats = self._make_external_routing()
        self.administration = Administration(config.cluster.id, self.routing)
        """Receives the requests of operators. The parts that carry them out register their verbs."""
        timing = _timing(config)
        self.bootstrap = Bootstrap(
            name,
            config.cluster.id,
            list(config.cluster.nodes),
            self.identity,
            str(self.client_address),
            self._admitted.set,
            alone=config.cluster.bootstrap,
        )
        self.membership = Members(
            name,
            self._peer_addresses(),
            self.bootstrap,
            directory=directory,
            since=since,
            removed=self._was_removed,
            changed=self._members_changed,
            routed=bool(config.cluster.routes),
        )
        self.security: Security | None = None
        self._member_certificates = self._open_member_certificates()
        self.transport = self._make_transport()
        self.certificates = CertificateWatch(
            lambda: () if self.security is None else self.security.expiries, self._member_certificates
        )
        self.outlet = Outlet(self.transport)
        self.replica = Replica(
            name,
            Subjects.of(config.cluster.id, config.streaming.discover_prefix),
            restore(self.store.records()),
            self.store,
            routing=self.routing if external_nats is None else external_nats,
            host=self._host,
            send=self._send_member,
            kick=self._kick,
            bootstrapped=self._bootstrapped,
            caught_up=self._caught_up,
            changed=self._has_changed,
            election_min_s=timing.election_min_s,
            max_clock_offset_ns=config.raft.max_clock_offset_ns,
            neighbours=None if self.is_alone else self.membership,
            recovered=recovered,
        )
        drop_uncommitted(self.journal, first_members, self.store.applied[0])
        self.engine = Engine(
            node=name,
            members=first_members,
            directory=directory,
            journal=self.journal,
            applied=self.store.applied[0],
            timing=timing,
            clock=time.monotonic,
            rng=random.Random(secrets.randbits(64)),  # noqa: S311  # election timeouts are no secret
            send=self.outlet.to_engine,
            apply=self._apply,
            listener=self.replica,
        )
        node_identity.refuse_removed(self.engine, name, since)
        self.replica.attach(self.engine)
        self.settings_sync = SettingsSync(
            lambda: self.replica.state, lambda: self.config, self.replica.origin, proposes=launch.proposes
        )
        self._serve_operators()
        self._serve_joins()
        self.driver = Driver(
            self.engine,
            self.journal,
            self.transport,
            outlet=self.outlet,
            server=self.replica,
            election_min_s=timing.election_min_s,
            stood_s=self.loop.stood_s,
        )
        self.checkpointer = Checkpointer(
            self.store,
            self.journal,
            lambda: self.replica.state,
            applied=lambda: self.engine.applied_index,
            matches=self._matches,
            durable=self._durable,
            interval_s=config.store.checkpoint_interval_ns / SECOND,
            trailing_entries=self._trailing_entries,
        )
        self.space = space_of(config) if config.store.store == "file" else None
        self.space_watch = (
            None
            if self.space is None
            else SpaceWatch(
                self.space,
                bytes_put=lambda: self.journal.bytes_put,
                unwritten=self._unwritten,
                looked=lambda is_low: self.replica.low_space.looked(is_low=is_low),
                shrink=self.checkpointer.shrink,
            )
        )
        self.snapshots = self._make_snapshots()
        self.context = self._make_context()
        self.clients = Clients(
            self.context,
            host=self.addresses.client.host,
            port=self.addresses.client.port,
            sockets=launch.sockets,
            loop=self.loop,
        )
        self.external_nats = None if external_nats is None else self._make_external(external_nats)
        if external_nats is not None:
            self.replica.streaming.body_size_max = lambda: external_nats.body_size_max
        self.remote_routes = self._make_remote_routes()

    @property
    def store(self) -> StoreInterface:
        """The applied state as of the last checkpoint; another object after a snapshot."""
        return self._storage.store

    @property
    def client_address(self) -> Address:
        """The address that other nodes announce to their clients."""
        return self.client_urls[0]

    @property
    def stopping(self) -> bool:
        """True if the node was asked to stop."""
        return self.shutdown.begun

    @property
    def takes_part(self) -> bool:
        """True if the node belongs to a cluster; False while it waits for bootstrap or to be added."""
        return self._admitted.is_set() or bool(self.replica.state.applied)

    @property
    def members(self) -> Sequence[str]:
        """The members of the cluster according to this node's log, itself included."""
        return self.membership.names

    @property
    def is_alone(self) -> bool:
        """True if the node has no peer address: it is the only node of its cluster."""
        return self.addresses.peer is None

    # --- parts ------------------------------------------------------------------------------------

    def _serve_operators(self) -> None:
        replica = self.replica

        def messages() -> StoreInterface:
            if not replica.caught_up or replica.executor.held:
                raise UnavailableError("this node has not caught up with the cluster: ask another one")
            return self.store

        Administering(
            state=lambda: replica.state,
            requests=replica.origin,
            clock=replica.clock,
            wall_clock_ns=replica.host.wall_clock_ns,
            messages=messages,
        ).register(self.administration)
        serve_membership(self.administration, replica.asking)
        if self.config.cluster.allow_add_remove_node:
            serve_go_requests(self.routing, self.config.cluster.id, replica.asking, self._peer_addresses())

    def _serve_joins(self) -> None:
        if self.is_alone:
            return
        from node.server.membership.join import JoinServer

        replica = self.replica
        join_server = JoinServer(
            self.config.cluster.id, self.name, lambda: replica.state.cluster_uuid, replica.asking
        )
        self.transport.serve_joiners(join_server.accept)

    def _open_member_certificates(self) -> MemberCertificates | None:
        cluster = self.config.cluster
        if cluster.peer_security.mode != "mtls":
            return None
        return MemberCertificates(cluster.id, self._storage.disk)

    def _make_transport(self) -> Transport | Alone:
        if self.addresses.peer is None:
            return Alone()
        from node.raft.transport import Transport
        from node.server.peer_security import peer_security

        self.security = peer_security(self.config, self.name, self._member_certificates)
        transport = Transport(
            self.name,
            self._peer_addresses(),
            self.addresses.peer_listen or self.addresses.peer,
            self.security,
            self._hello,
            self.bootstrap.check_hello,
        )
        transport.attach(ROUTE, RouteLink(self.routing, self.announce))
        self.membership.attach(transport, self.security)
        return transport

    def _hello(self, link: str) -> dict[str, Any]:
        assert self.security is not None
        return {
            **self.bootstrap.hello(link),
            "term": self.journal.term,
            "low_space": self.replica.low_space.is_low,
            **self.security.hello(),
        }

    def _peer_addresses(self) -> dict[str, Address]:
        """Return the peer addresses of the nodes in the configuration."""
        nodes = self.config.cluster.nodes
        return {name: node.peer for name, node in nodes.items() if node.peer is not None}

    def _make_remote_routes(self) -> RouteLinks | None:
        """Return the links to nodes of other clusters; None if routes are not configured."""
        routes = self.config.cluster.routes
        if routes is None:
            return None
        from node.server.peer_security import peer_security
        from node.server.routes.route_links import RouteLinks
        from node.server.routes.route_traffic import RouteTraffic

        security = self.security or peer_security(self.config, self.name, self._member_certificates)
        remote_routes = RouteLinks(
            self.config.cluster.id,
            self.name,
            listen=self.addresses.peer,
            client="" if self.config.cluster.no_advertise else str(self.client_address),
            routes=routes,
            security=security,
            members=self.membership.addresses,
            listener=RouteTraffic(self.routing, self.replica, self.membership.found, self.announce),
            bootstrap=self._bootstrap,
            exclusive=lambda: self.config.cluster.bootstrap and node_identity.is_untouched(self.engine),
        )
        self.transport.serve_remote_route(remote_routes.accept)
        return remote_routes

    def _bootstrap(self) -> str:
        if self.config.cluster.bootstrap:
            return STARTED
        return BOOTSTRAPPED if self.engine.membership.joinable else ""

    def _make_external_routing(self) -> ExternalNatsRouting | None:
        """Return the replacement of routing if clients connect to an external NATS server, else None."""
        if self.config.streaming.nats_server is None:
            return None
        from node.server.external_nats.routing import ExternalNatsRouting

        def inboxes() -> Iterator[str]:
            yield from (client.heartbeat_inbox for client in self.replica.state.clients.values())
            yield from (sub.inbox for sub in self.replica.state.subscriptions.values() if sub.online)

        return ExternalNatsRouting(
            self.name,
            clock=self._host.monotonic_s,
            nuid=self._host.nuid,
            clients=lambda: [client.heartbeat_inbox for client in self.replica.state.clients.values()],
            inboxes=inboxes,
            is_clustered=not self.is_alone,
        )

    def _make_external(self, routing: ExternalNatsRouting) -> ExternalNats:
        from node.server.external_nats.link import ExternalNats
        from node.server.external_nats.servers import servers, trust

        wanted = self.config.streaming.nats_server
        assert wanted is not None
        return ExternalNats(
            routing,
            self.replica,
            servers(wanted),
            name=f"_NSS-{self.config.cluster.id}-{self.name}",
            discover=f"{self.config.streaming.discover_prefix}.{self.config.cluster.id}",
            cluster_id=self.config.cluster.id,
            tls=None if wanted.tls is None else trust(wanted.tls),
            server_name=(wanted.tls and wanted.tls.server_name) or "",
            is_clustered=not self.is_alone,
            went=self.replica.requests.suspend,
            came=self.replica.requests.resume,
            epoch=self.clients.next_epoch,
        )

    def _make_serving(self) -> Serving | None:
        if self.external_nats is None or self.is_alone:
            return None
        from node.server.external_nats.serving import Serving

        replica = self.replica

        def tell(frame: tuple[str, int, int, bool]) -> None:
            for peer in replica.links_up:
                self._send_member(peer, frame)

        serving = Serving(
            self.external_nats,
            replica,
            self.engine,
            cluster_id=self.config.cluster.id,
            lease_s=_timing(self.config).election_min_s / 2,
            tell=tell,
            kick=self._has_changed,
        )
        replica.serving = serving
        return serving

    def _make_snapshots(self) -> Snapshots | None:
        """Return the sender and receiver of snapshots; None for a single node or a store in memory."""
        if self.is_alone or self.config.store.store == "memory":
            return None
        from node.server.disk.snapshots import Snapshots

        snapshots = Snapshots(
            self.config.store.dir,
            self.checkpointer,
            self.engine,
            self.replica,
            open_channel=self.transport.open_snapshot,
            membership_at=self._membership_at,
            first_readable=lambda: self.journal.first_readable,
            replaced=self._replaced,
            kick=self._kick,
            keyring=self._storage.keyring,
            fits=(lambda _size: True) if self.space is None else self.space.fits,
        )
        self.replica.needs_snapshot_from = snapshots.wanted
        self.transport.serve_snapshots(snapshots.serve)
        return snapshots

    def _make_context(self) -> Context:
        clients = self.config.clients
        soft, hard = bounds(SOFT_BYTES, clients.max_pending, clients.max_payload)
        return Context(
            routing=self.routing,
            service=self.replica,
            info=ServerInfo(
                server_id=secrets.token_hex(16).upper(),
                server_name=self.addresses.server_name or self.name,
                host=self.addresses.client.host,
                port=self.addresses.client.port,
                go=f"python{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}",
                cluster=self.config.cluster.id,
            ),
            clock=trio.current_time,
            limits=ClientLimits(
                max_payload=clients.max_payload,
                max_control_line=clients.max_control_line,
                max_connections=connections_max(clients.max_connections),
                max_subscriptions=clients.max_subscriptions,
                pending_soft=soft,
                max_pending=hard,
                write_deadline_s=clients.write_deadline_ns / SECOND,
                ping_interval_s=clients.ping_interval_ns / SECOND,
                ping_max=clients.ping_max,
                auth_timeout_s=clients.auth_timeout_ns / SECOND,
            ),
            authenticator=authenticator(clients, operator_token(self.config)),
            node_ready=lambda: self.replica.caught_up or self._core_open,
        )

    # --- running ----------------------------------------------------------------------------------

    async def run(self) -> int | None:
        """Start everything, serve until asked to stop, and stop in steps.

        Returns the exit code; None if the node has joined a cluster: then create a new `Node`.

        Raises:
            NodeError: the cause of the node's end, in an exception group.
        """
        with self.loop.installed():
            return await self._run()

    async def _run(self) -> int | None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.shutdown.heed_signals)
            nursery.start_soon(Collector(lambda: self.replica.role == "leader" and not self.is_alone).run)
            nursery.start_soon(self.shutdown.stop_when_asked, nursery.cancel_scope)
            nursery.start_soon(self._serve_http)
            if self.identity is None and self.config.cluster.join:
                await self._join()
                nursery.cancel_scope.cancel()
                return None
            await nursery.start(self.transport.run)
            if self.remote_routes is not None:
                nursery.start_soon(self.remote_routes.run)
            if self.identity is None and self.config.cluster.bootstrap:
                await self._check_no_cluster_exists()
            self.bootstrap.start()
            if not self._admitted.is_set() and self.identity is None:
                log.info(
                    "waiting for peers %s to bootstrap the cluster, or for `cluster add`",
                    ", ".join(peer for peer in self._peer_addresses() if peer != self.name),
                )
            await self._wait_for_admission()
            if self.bootstrap.invitation is not None:
                nursery.cancel_scope.cancel()
                return None
            if self.external_nats is None:
                await nursery.start(self.shutdown.serve_clients)
            else:
                await nursery.start(self.external_nats.run)
            serving = self._make_serving()  # before a leader announces the queue group in which it serves
            await nursery.start(self.driver.run)
            nursery.start_soon(self.checkpointer.run)
            if self.snapshots is not None:
                nursery.start_soon(self.snapshots.run)
            nursery.start_soon(self.leaderless.run)
            nursery.start_soon(self.certificates.run)
            if self.space_watch is not None:
                nursery.start_soon(self.space_watch.run)
            if serving is not None:
                nursery.start_soon(serving.run, self._wait_changed, self.shutdown.hand_over)
            nursery.start_soon(self._configure)
        return self.shutdown.status

    async def _wait_for_admission(self) -> None:
        if self.identity is not None:
            return
        while not self._admitted.is_set():
            with trio.move_on_after(0.1):
                await self._admitted.wait()
            if self.bootstrap.refused is not None:
                raise self.bootstrap.refused
        cluster = self.config.cluster
        invitation = self.bootstrap.invitation
        if invitation is None:
            self.identity = node_identity.bootstrap_node(
                cluster.id, self.name, node_identity.initial_voters(cluster, self.name)
            )
        else:
            log.info("added to cluster %s, by entry %d", cluster.id, invitation.index)
            self.identity = node_identity.invited(cluster.id, self.name, invitation)
        await trio.to_thread.run_sync(save_identity, self._storage.disk, self.identity)
        self.bootstrap.identify(self.identity)

    async def _check_no_cluster_exists(self) -> None:
        """Wait for nodes of an existing cluster to dial this one, before it bootstraps a cluster alone.

        Raises:
            IdentityError: this node is a member of an existing cluster.
        """
        with trio.move_on_after(EXISTING_CLUSTER_WAIT_S):
            while self.bootstrap.refused is None:  # noqa: ASYNC110  # a hello is no event of ours
                await trio.sleep(0.05)
        if self.bootstrap.refused is not None:
            raise self.bootstrap.refused

    async def _join(self) -> None:
        """Join a cluster by request, and save the identity that the cluster gave this node."""
        from node.server.membership.join import JoinClient, drawn, forget

        cluster, disk = self.config.cluster, self._storage.disk
        assert self.addresses.peer is not None
        assert self.security is not None
        directory = await trio.to_thread.run_sync(drawn, disk)
        join_client = JoinClient(cluster.id, self.name, self.addresses.peer, directory, self.security)
        invitation = await join_client.enter(cluster.routes or ())
        log.info("joined cluster %s, by entry %d", cluster.id, invitation.index)
        identity = node_identity.invited(cluster.id, self.name, invitation, directory)
        await trio.to_thread.run_sync(save_identity, disk, identity)
        await trio.to_thread.run_sync(forget, disk)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` is true. It is checked when role, leader or catching up changes."""
        while not condition():
            await self._changed.wait()

    async def _wait_changed(self) -> None:
        await self._changed.wait()

    def _has_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _unwritten(self) -> Unwritten:
        from node.store.store import Store

        store = self.store
        unallocated = self.journal.unallocated_bytes
        if not isinstance(store, Store) or store.closed:  # a snapshot is replacing it
            return Unwritten(0, 0, unallocated)
        return Unwritten(store.reusable_bytes, store.unwritten_bytes, unallocated)

    def _trailing_entries(self) -> int:
        if len(self.members) <= 1 or (self.space is not None and self.space.is_tight):
            return 0
        return self.config.raft.trailing_logs

    async def _configure(self) -> None:
        await self.until(lambda: self.replica.caught_up)
        self.settings_sync.begin()

    async def _serve_http(self) -> None:
        if self.addresses.http is None:
            return
        if self.is_alone:  # a single node usually serves at once: the imports of monitoring would delay it
            with trio.move_on_after(MONITORING_WAITS_S):
                await self.until(lambda: self.replica.caught_up)
        # In a thread: it takes a quarter of a second, too long to delay heartbeats.
        await trio.to_thread.run_sync(_import_monitoring)
        from node.monitor.http import serve
        from node.server.monitor_adapter import Source

        token = self.config.monitoring.token
        await serve(
            Source(self),
            (self.addresses.http.host, self.addresses.http.port),
            token.reveal() if token else "",
            base_path=self.config.monitoring.http_base_path,
            names=self._host_names(),
            jsonp=self.config.monitoring.jsonp,
            figures_open=self.config.monitoring.figures_open,
            sockets=self.launch.http_sockets,
        )

    def _host_names(self) -> set[str]:
        """Return the host names accepted in requests to monitoring: those of the configuration."""
        nodes = self.config.cluster.nodes
        addresses = [
            address
            for node in nodes.values()
            for address in (node.client, node.peer, node.http, node.advertise)
            if address is not None
        ]
        return {*nodes, *(address.host for address in addresses), *self.config.monitoring.hosts}

    # --- called by the parts -------------------------------------------------------------------

    def _send_route(self, peer: str, value: Any) -> None:
        if self.remote_routes is not None and cluster_of(peer):
            self.remote_routes.send(peer, value)
        else:
            self.transport.send(peer, ROUTE, value)

    def _queued_bytes(self, peer: str) -> int:
        if self.remote_routes is not None and cluster_of(peer):
            return self.remote_routes.queued_bytes(peer)
        return self.transport.queued_bytes(peer, ROUTE)

    def _has_capacity(self, peer: str) -> bool:
        if self.remote_routes is not None and cluster_of(peer):
            return self.remote_routes.has_capacity(peer)
        return self.transport.queued_bytes(peer, ROUTE) < ROUTE_QUEUED_MAX

    def _offers(self, cluster: str, pattern: bytes) -> bool:
        return is_offered(cluster, pattern, self.config.streaming.discover_prefix)

    def _send_member(self, peer: str, value: Any) -> bool:
        return self.outlet.to_server(peer, value)

    def _kick(self) -> None:
        self.driver.kick()

    def _apply(self, index: int, term: int, payload: bytes) -> None:
        self.replica.apply(index, term, payload)
        self.checkpointer.pressed()
        if self.space_watch is not None:
            self.space_watch.accepted()

    def _matches(self) -> Mapping[str, int]:
        return {peer.name: peer.match for peer in self.engine.peer_states() if peer.connected and peer.match}

    async def _durable(self, index: int) -> None:
        while self.journal.durable_index < index:
            await self.driver.flushed()

    def _membership_at(self, index: int) -> Membership:
        return node_identity.members_at(self.engine, self.journal, index)

    def _members_changed(self) -> None:
        if self._served:
            self.announce()

    def _was_removed(self, index: int) -> None:
        if not self.stopping:
            log.warning("entry %d removed this node from the cluster: stopping", index)
            self.shutdown.at_once()

    def _replaced(self, store: StoreInterface) -> None:
        self._storage.store = store

    def _bootstrapped(self, state: State) -> None:
        identity = node_identity.learnt(self.identity, self.config.cluster.id, self.name, state)
        if identity != self.identity:
            save_identity(self._storage.disk, identity)
            self.identity = identity
            self.bootstrap.identify(identity)

    def _caught_up(self) -> None:
        self.clients.release()
        self._has_changed()
        if self.external_nats is None:
            self._serves()
            return
        if self.is_alone:
            self.external_nats.open()
        self.external_nats.once_subscribed(self._serves)

    def _serves(self) -> None:
        """Log once that this node serves clients."""
        if not self._served:
            self._served = True
            log.info("%s", self.launch.ready)

    def open_core(self) -> None:
        """Serve core NATS although this node has not caught up; streaming requests are refused meanwhile."""
        if not self._core_open:
            self._core_open = True
            self.clients.release()

    def monotonic_s(self) -> float:
        """Return the monotonic clock of this node's parts, in seconds."""
        return self._host.monotonic_s()

    def announce(self) -> None:
        """Send clients the client addresses of the cluster's nodes."""
        if not self.stopping and not self.leaderless.alone:
            self.clients.announce([*map(str, self.client_urls), *self.other_addresses()])

    def other_addresses(self) -> list[str]:
        """Return the client addresses of other nodes."""
        own = [address for _, address in sorted(self.bootstrap.client_addresses.items())]
        return own if self.remote_routes is None else own + self.remote_routes.client_addresses()


def _timing(config: Config) -> Timing:
    shortest, longest = config.raft.election_timeout_ns
    return Timing(shortest / SECOND, longest / SECOND, config.raft.heartbeat_ns / SECOND)


def _import_monitoring() -> None:
    import node.server.monitor_adapter  # noqa: F401
    from node.monitor.http import prepare

    prepare()
