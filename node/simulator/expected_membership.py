"""A simulated machine's place in its cluster: its identity, its hellos, and its links.

The rules are the node's own (`server.membership.bootstrap`, `server.membership.members`). This module adds
the directory that survives processes, and replaces the transport: a simulated link comes up between two
nodes if at least one wants it and each has accepted the other's hello.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from node.config.values import Address
from node.core.state import State
from node.errors import IdentityError, RemoteProtocolError
from node.raft.identity import Identity
from node.raft.journal import Journal
from node.raft.links import CollisionError
from node.raft.membership import Membership
from node.server.membership import node_identity
from node.server.membership.bootstrap import Bootstrap, pack_membership
from node.server.membership.members import Members

if TYPE_CHECKING:
    from node.simulator.cluster import Cluster
    from node.simulator.sim_node import SimNode

CLUSTER_ID = "test-cluster"
PORT = 6222


class ExpectedMembership:
    """The membership of one machine. It outlives processes.

    Args:
        node: the machine.
        cluster: the simulated cluster.
        initial_voters: the nodes that bootstrap the cluster. All other nodes have an empty directory.
    """

    def __init__(self, node: SimNode, cluster: Cluster, initial_voters: Iterable[str]) -> None:
        self.identity: Identity | None = None
        self.bootstrap: Bootstrap
        self.members: Members
        self._node = node
        self._cluster = cluster
        self._linked: frozenset[str] = frozenset()
        self._refused: dict[str, str] = {}
        """The last reason why each peer was refused, so that it is traced only once."""
        self._rng = cluster.world.stream(f"{node.name} directory")
        names = sorted(initial_voters)
        if node.name in names:
            membership = pack_membership(0, Membership.initial_voters(names))
            self.identity = Identity(CLUSTER_ID, "", "", node.name, membership=membership)

    # --- a process begins ---------------------------------------------------------------------------

    def begin(self) -> tuple[int, Membership]:
        """Start a new process. Returns the membership that its directory names, and the index it is from."""
        node, cluster = self._node, self._cluster
        since, membership = node_identity.first_members(
            self.identity, Membership.initial_voters(cluster.names)
        )
        self.bootstrap = Bootstrap(
            node.name, cluster.cluster_id, cluster.names, self.identity, "", node.admitted
        )
        self.members = Members(
            node.name,
            {name: Address(name, PORT) for name in cluster.names},
            self.bootstrap,
            directory=self.directory,
            since=since,
            removed=node.removed,
            changed=lambda: None,
        )
        self._linked = frozenset(cluster.names) if self.identity is None else frozenset()
        self.members.attach(self, self)
        return since, membership

    @property
    def directory(self) -> str:
        return self.identity.directory if self.identity is not None else ""

    def admit(self) -> None:
        """Create the identity of a node that the cluster has added, with a random ID for its directory."""
        invitation = self.bootstrap.invitation
        assert invitation is not None
        membership = pack_membership(invitation.index, invitation.membership)
        self.identity = Identity(
            self._cluster.cluster_id,
            invitation.cluster_uuid,
            "",
            self._node.name,
            directory=self._rng.randbytes(11).hex(),
            membership=membership,
        )

    def bootstrapped(self, state: State) -> None:
        """Adopt the cluster UUID from the state."""
        self.identity = node_identity.learnt(self.identity, self._cluster.cluster_id, self._node.name, state)
        self.bootstrap.identify(self.identity)

    def claim(self, journal: Journal) -> tuple[str, str] | None:
        """Claim the log for this cluster if the data is recovered. Returns new and old cluster UUID."""
        identity = self.identity
        if identity is None or not identity.recovered_from:
            return None
        node_identity.claim_log(journal, identity)
        return identity.cluster_uuid, identity.recovered_from

    def forget(self) -> None:
        """Forget the identity: the directory is emptied."""
        self.identity = None

    # --- in place of the transport and its security -------------------------------------------------

    def set_members(self, peers: Mapping[str, Any]) -> None:
        """Keep links to these peers, and to no other node."""
        self._linked = frozenset(peers)
        for network in self._cluster.networks.values():
            for other in self._cluster.names:
                if other == self._node.name:
                    continue
                if other not in self._linked:
                    network.cut(self._node.name, other)
                else:
                    network.connect_soon(self._node.name, other)

    def is_up(self, peer: str, link: str) -> bool:
        return self._cluster.networks[link].linked(self._node.name, peer)

    def drop(self, peer: str, link: str, _reason: str) -> None:
        self._cluster.networks[link].cut(self._node.name, peer)

    def notify_refused(self, _explanation: Any, _refused: Any) -> None:
        """Do nothing: both machines record refusals themselves (`takes`)."""

    def check_addresses(self, addresses: Iterable[Any]) -> None:
        """Accept any address."""

    def wants(self, peer: str) -> bool:
        """Return True if this machine dials ``peer``."""
        return peer in self._linked

    def takes(self, peer: ExpectedMembership, link: str) -> bool:
        """Return True if this process accepts the hello of ``peer``."""
        hello = {**peer.bootstrap.hello(link), "node": peer._node.name}
        try:
            self.bootstrap.check_hello(link, hello)
        except CollisionError:
            return False
        except (IdentityError, RemoteProtocolError) as error:
            peer.members.refused(self._node.name, self.bootstrap.explanation(hello))
            if self._refused.get(peer._node.name) != str(error):
                self._refused[peer._node.name] = str(error)
                self._cluster.world.record(f"{self._node.name} refuses {peer._node.name}: {error}")
            return False
        return True
