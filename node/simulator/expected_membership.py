"""Where a simulated machine stands in its cluster: its identity, its hellos, and whom it links to.

The rules are the node's own (`server.membership.bootstrap`, `server.membership.members`); here are the
directory that survives processes, and what takes the place of the transport: links of the simulated network
are up between those who want them, once each has looked at the other's hello.
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
    """One machine's. It outlives processes.

    Args:
        node: the machine.
        cluster: where it is.
        initial_voters: who founds the cluster. Everybody else has an empty directory.
    """

    def __init__(self, node: SimNode, cluster: Cluster, initial_voters: Iterable[str]) -> None:
        self.identity: Identity | None = None
        self.bootstrap: Bootstrap
        self.members: Members
        self._node = node
        self._cluster = cluster
        self._linked: frozenset[str] = frozenset()
        self._refused: dict[str, str] = {}
        """Why a peer was refused last: told once."""
        self._rng = cluster.world.stream(f"{node.name} directory")
        names = sorted(initial_voters)
        if node.name in names:
            membership = pack_membership(0, Membership.initial_voters(names))
            self.identity = Identity(CLUSTER_ID, "", "", node.name, membership=membership)

    # --- a process begins ---------------------------------------------------------------------------

    def begin(self) -> tuple[int, Membership]:
        """A new process: whom the directory names as members, and since which entry."""
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
        """The cluster has added this machine: draw an id for its directory."""
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
        """The state says what was drawn for the cluster."""
        self.identity = node_identity.learnt(self.identity, self._cluster.cluster_id, self._node.name, state)
        self.bootstrap.identify(self.identity)

    def claim(self, journal: Journal) -> tuple[str, str] | None:
        """If this is recovered data, make the log this cluster's; which founding it is now, and was."""
        identity = self.identity
        if identity is None or not identity.recovered_from:
            return None
        node_identity.claim_log(journal, identity)
        return identity.cluster_uuid, identity.recovered_from

    def forget(self) -> None:
        """The directory is emptied."""
        self.identity = None

    # --- in the place of the transport, and of its security -----------------------------------------

    def set_members(self, peers: Mapping[str, Any]) -> None:
        """Have links to these, and to nobody else."""
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
        """Who refuses whom, both machines see to (`takes`)."""

    def check_addresses(self, addresses: Iterable[Any]) -> None:
        """Any will do."""

    def wants(self, peer: str) -> bool:
        """Whether this machine dials ``peer``."""
        return peer in self._linked

    def takes(self, peer: ExpectedMembership, link: str) -> bool:
        """Whether the hello of ``peer`` is one that this process takes."""
        hello = {**peer.bootstrap.hello(link), "node": peer._node.name}
        try:
            self.bootstrap.check_hello(link, hello)
        except CollisionError:
            return False
        except (IdentityError, RemoteProtocolError) as error:
            peer.members.refused(self._node.name, self.bootstrap.explanation(hello))
            if self._refused.get(peer._node.name) != str(error):
                self._refused[peer._node.name] = str(error)
                self._cluster.world.note(f"{self._node.name} refuses {peer._node.name}: {error}")
            return False
        return True
