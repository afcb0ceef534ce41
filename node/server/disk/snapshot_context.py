"""The context of a snapshot, sent with the copy of the store."""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.membership import Membership


@dataclass(frozen=True, slots=True)
class Context:
    """Data that the receiver of a snapshot needs beside the copy of the store."""

    membership: Membership
    """In force at the snapshot's entry."""
    keys: bytes
    """The encrypted data keys of the copy (`encryption.Keyring.export`); empty if it is not encrypted."""

    def encode(self) -> bytes:
        members = self.membership.encode()
        return len(members).to_bytes(4) + members + self.keys

    @classmethod
    def decode(cls, data: bytes) -> Context:
        """Decode an encoded context. Raises RemoteProtocolError if it is malformed."""
        size = int.from_bytes(data[:4])
        return cls(Membership.decode(data[4 : 4 + size]), data[4 + size :])
