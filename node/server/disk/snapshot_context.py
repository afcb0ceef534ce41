"""What comes with a snapshot, beside the copy of the store."""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.membership import Membership


@dataclass(frozen=True, slots=True)
class Context:
    """What the copy itself doesn't hold."""

    membership: Membership
    """In force at its entry."""
    keys: bytes
    """What it takes to read it (`encryption.Keyring.export`); empty: nothing."""

    def encode(self) -> bytes:
        members = self.membership.encode()
        return len(members).to_bytes(4) + members + self.keys

    @classmethod
    def decode(cls, data: bytes) -> Context:
        """Read it back; RemoteProtocolError: it is none."""
        size = int.from_bytes(data[:4])
        return cls(Membership.decode(data[4 : 4 + size]), data[4 + size :])
