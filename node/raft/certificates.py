"""Expiry of certificates, and the list of certificates that members have used.

A node's certificate and its authority's certificate expire. After that no new link can be established, while
present links stay up: the cluster looks healthy until the first link breaks. So `Expiry` warns ahead of time.

A certificate names a node, not a cluster. A routing peer of another cluster uses the same authority, so a
certificate issued for a member of this cluster would also be valid for a node of another cluster. A removed
node could then continue to read everything that clients of its old cluster send. Therefore each member
remembers the certificates that members have used (`MemberCertificates`), permanently, and lists them in its
hellos to other members. None of them is accepted from a routing peer.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.errors import CorruptionError, IdentityError
from node.raft.disk import Disk, replace_file

WARN_BEFORE: Final = datetime.timedelta(days=30)
FILE_NAME: Final = "member-certificates.json"
ID_BYTES: Final = 16
KNOWN_MAX: Final = 1024
"""Maximum number of remembered certificates; the oldest are forgotten first."""
_FILE_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Expiry:
    """The expiry (UTC) of one certificate of this node."""

    path: Path
    at: datetime.datetime

    def warning(self, now: datetime.datetime) -> str:
        """Return a warning for the operator; empty if the certificate is valid for longer than
        ``WARN_BEFORE``.
        """
        if self.at - now > WARN_BEFORE:
            return ""
        date = f"{self.at:%Y-%m-%d %H:%M} UTC"
        if self.at <= now:
            return f"certificate {self.path} expired on {date}: new links between nodes can't be established"
        left = self.at - now
        when = f"{left.days} days" if left.days > 1 else f"{left.total_seconds() / 3600:.0f} hours"
        return (
            f"certificate {self.path} expires in {when}, on {date}: issue a new one (stanchion certs issue "
            "--force), copy it to the node, and send it SIGHUP"
        )

    def has_expired(self, now: datetime.datetime) -> bool:
        return self.at <= now


def identify(certificate: Mapping[str, Any] | None) -> bytes | None:
    """Return the id of a peer's certificate, made from its issuer and serial number; None without TLS.

    Args:
        certificate: as `ssl` decodes it.

    Source: RFC 5280, 4.1.2.2: the two identify a certificate.
    """
    if not certificate:
        return None
    text = repr((certificate.get("issuer"), certificate.get("serialNumber")))
    return hashlib.sha256(text.encode()).digest()[:ID_BYTES]


class MemberCertificates:
    """The certificates that members of this cluster have used on their links.

    `save` does I/O and may run in another thread. All other methods belong to one thread.

    Args:
        cluster_id: this cluster's ID.
        disk: the node's directory.

    Raises:
        CorruptionError: the stored list is damaged.
        DiskError: the list can't be read.
    """

    def __init__(self, cluster_id: str, disk: Disk) -> None:
        self._cluster_id = cluster_id
        self._disk = disk
        self._known: dict[bytes, None] = dict.fromkeys(_load(disk))
        self._saved = len(self._known)
        self._changes = 0
        self._changes_saved = 0

    def add(self, certificate: Mapping[str, Any] | None) -> None:
        """Remember the certificate of a member's link."""
        found = identify(certificate)
        if found is not None:
            self._add(found)

    def add_ids(self, ids: Any) -> None:
        """Remember the certificate ids that a member's hello lists; ignore a malformed list."""
        if isinstance(ids, bytes) and len(ids) <= KNOWN_MAX * ID_BYTES and len(ids) % ID_BYTES == 0:
            for at in range(0, len(ids), ID_BYTES):
                self._add(ids[at : at + ID_BYTES])

    def hello(self) -> bytes:
        """Return the certificate ids for this node's hellos."""
        return b"".join(self._known)

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """Refuse a node of another cluster that uses the certificate of a present or former member of this
        one.

        Raises:
            IdentityError: it uses such a certificate.
        """
        if cluster != self._cluster_id and identify(certificate) in self._known:
            raise IdentityError(
                f"claims to be {node!r} of cluster {cluster!r:.80}, but its certificate belongs to a node "
                f"that is or was a member of {self._cluster_id!r}: issue a separate certificate for the node "
                f"of the other cluster"
            )

    @property
    def is_dirty(self) -> bool:
        """True if there are changes that are not saved."""
        return self._changes != self._changes_saved

    def save(self) -> None:
        """Write the list to the disk.

        Raises:
            DiskError: the write failed.
        """
        changes, known = self._changes, [each.hex() for each in list(self._known)]
        replace_file(self._disk, FILE_NAME, json.dumps({"format": 1, "certificates": known}).encode())
        self._changes_saved = changes

    def _add(self, found: bytes) -> None:
        if found in self._known:
            return
        self._known[found] = None
        self._changes += 1
        while len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]


def _load(disk: Disk) -> list[bytes]:
    if FILE_NAME not in disk.names():
        return []
    with contextlib.closing(disk.open(FILE_NAME)) as file:
        data = file.read(0, _FILE_BYTES_MAX)
    try:
        match json.loads(data):
            case {"format": 1, "certificates": list(known)}:
                return [bytes.fromhex(each) for each in known]
    except (ValueError, TypeError):
        pass
    raise CorruptionError(
        f"{disk.describe(FILE_NAME)}: the list of members' certificates is damaged. Delete it if no node "
        f"was ever removed from this cluster, or if the certificates of all removed nodes have expired; the "
        f"other members send their lists again"
    )
