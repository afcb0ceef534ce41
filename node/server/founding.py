"""Who may form a cluster, and who belongs to it (raft S17; architecture, "Founding").

A node that lost its directory must not take part as if nothing had happened: it would vote twice
and acknowledge what it no longer has. So an empty node takes part only in a *founding*: when every
configured member has said hello and is empty too. If any of them has state, the empty one refuses
to start, for it is either new or has lost its disk, and an operator must say which.

Two nodes may notice the founding at different moments. A node that was admitted therefore says in
its hello whom it met as empty; who finds itself there, with the nonce of this very process, is part
of the founding too.

A plain object without I/O.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from node.core.commands import MACHINE_VERSION
from node.errors import IdentityError
from node.raft.identity import Identity

WIRE_VERSION = 1


class Founding:
    """This node's part in hellos.

    Args:
        node: this node's name.
        cluster_id: as configured.
        members: names of all configured members, this one included.
        identity: of the directory; None if it is empty.
        client_address: what clients are told to connect to.
        admitted: told once, when this node may take part; not if ``identity`` is given.
    """

    def __init__(
        self,
        node: str,
        cluster_id: str,
        members: Sequence[str],
        identity: Identity | None,
        client_address: str,
        admitted: Callable[[], None],
    ) -> None:
        self._node = node
        self._cluster_id = cluster_id
        self._members = frozenset(members)
        self._identity = identity
        self._empty = identity is None
        self._client_address = client_address
        self._admitted = admitted
        self._nonce = secrets.token_hex(16)
        self._met: dict[str, str] = {}
        self.refused: IdentityError | None = None
        """Why this node must not start, once that is known."""
        self.client_addresses: dict[str, str] = {}
        """Where the other nodes take clients, as they said."""
        self.machine_versions: dict[str, int] = {}

    def start(self) -> None:
        """Look whether there is anybody to wait for."""
        self._check()

    def identify(self, identity: Identity) -> None:
        """The cluster was founded, and this is our identity in it."""
        self._identity = identity

    def hello(self, _link: str) -> dict[str, Any]:
        """Our part of the hello on any link."""
        return {
            "wire": WIRE_VERSION,
            "machine": MACHINE_VERSION,
            "cluster": self._cluster_id,
            "founding": self._identity.founding_id if self._identity else "",
            "empty": self._empty,
            "nonce": self._nonce,
            "met": dict(self._met),
            "client": self._client_address,
        }

    def check_hello(self, _link: str, hello: Mapping[str, Any]) -> None:
        """Look at a member's hello.

        Raises:
            IdentityError: it belongs to another cluster or founding, or speaks another protocol.
        """
        peer = str(hello.get("node"))
        if hello.get("wire") != WIRE_VERSION:
            raise IdentityError(f"{peer} speaks wire version {hello.get('wire')!r}, this node {WIRE_VERSION}")
        if hello.get("cluster") != self._cluster_id:
            raise IdentityError(
                f"{peer} belongs to cluster {hello.get('cluster')!r}, this node to {self._cluster_id!r}"
            )
        founding = hello.get("founding")
        ours = self._identity.founding_id if self._identity else ""
        if ours and founding and founding != ours:
            raise IdentityError(f"{peer} belongs to another founding of cluster {self._cluster_id!r}")
        self._note(peer, hello)

    def _note(self, peer: str, hello: Mapping[str, Any]) -> None:
        client, machine, nonce, met = (hello.get(key) for key in ("client", "machine", "nonce", "met"))
        if isinstance(client, str) and client:
            self.client_addresses[peer] = client
        if isinstance(machine, int):
            self.machine_versions[peer] = machine
        if not self._empty:
            return
        took_part = isinstance(met, Mapping) and met.get(self._node) == self._nonce
        if hello.get("empty") is True or took_part:
            self._met[peer] = str(nonce)
            self._check()
        else:
            self.refused = IdentityError(
                f"node {self._node} has an empty directory, but {peer} has the state of cluster "
                f"{self._cluster_id!r}. If {self._node} lost its directory, put it back or let the cluster "
                f"replace it: stanchion cluster replace {self._node} NEW. If this is meant to be a new "
                f"cluster, empty the other nodes' directories too."
            )

    def _check(self) -> None:
        if self._empty and self._met.keys() >= self._members - {self._node}:
            self._empty = False
            self._admitted()
