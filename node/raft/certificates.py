"""What certificates say about time, and which of them are a member's.

A node's certificate and that of its authority run out. After that no new link comes up, while the present
ones stand: a cluster looks well until the first of them breaks. So expiry is told ahead (`Expiry`).

A certificate names a node, not a cluster. A routing peer shows one of the same authority, so one that was
made for a member of this cluster would do for a node of another cluster as well, and a node that was
removed could go on reading everything that its old cluster's clients send. Therefore each member keeps the
certificates that members have linked with (`MemberCertificates`), for ever, and tells them to the others in
its hellos: one of them is never a routing peer's.
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
"""Certificates remembered; of more the oldest are forgotten."""
_FILE_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Expiry:
    """When one certificate of this node runs out (UTC)."""

    path: Path
    at: datetime.datetime

    def warning(self, now: datetime.datetime) -> str:
        """Return what to tell an operator; empty while there is time enough."""
        if self.at - now > WARN_BEFORE:
            return ""
        date = f"{self.at:%Y-%m-%d %H:%M} UTC"
        if self.at <= now:
            return f"certificate {self.path} has expired, on {date}: no new link between nodes comes up"
        left = self.at - now
        when = f"{left.days} days" if left.days > 1 else f"{left.total_seconds() / 3600:.0f} hours"
        return (
            f"certificate {self.path} expires in {when}, on {date}: issue another (stanchion certs issue "
            "--force), copy it to the node, and send it SIGHUP"
        )

    def has_expired(self, now: datetime.datetime) -> bool:
        return self.at <= now


def identify(certificate: Mapping[str, Any] | None) -> bytes | None:
    """Return the id of a peer's certificate, as `ssl` decodes it: its issuer and serial number; None
    without TLS.

    Source: RFC 5280, 4.1.2.2: the two identify a certificate.
    """
    if not certificate:
        return None
    text = repr((certificate.get("issuer"), certificate.get("serialNumber")))
    return hashlib.sha256(text.encode()).digest()[:ID_BYTES]


class MemberCertificates:
    """The certificates that members of this cluster have linked with.

    `save` does I/O, and may run in another thread; everything else is of one thread.

    Args:
        cluster_id: this cluster's ID.
        disk: the node's directory.

    Raises:
        CorruptionError: the file there is damaged.
        DiskError: the disk refused.
    """

    def __init__(self, cluster_id: str, disk: Disk) -> None:
        self._cluster_id = cluster_id
        self._disk = disk
        self._known: dict[bytes, None] = dict.fromkeys(_load(disk))
        self._saved = len(self._known)
        self._changes = 0
        self._changes_saved = 0

    def noted(self, certificate: Mapping[str, Any] | None) -> None:
        """A member has linked with this certificate."""
        found = identify(certificate)
        if found is not None:
            self._add(found)

    def told(self, ids: Any) -> None:
        """A member's hello says which certificates it knows."""
        if isinstance(ids, bytes) and len(ids) <= KNOWN_MAX * ID_BYTES and len(ids) % ID_BYTES == 0:
            for at in range(0, len(ids), ID_BYTES):
                self._add(ids[at : at + ID_BYTES])

    def hello(self) -> bytes:
        """Return what this node's hellos say of them."""
        return b"".join(self._known)

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """Refuse a node of another cluster that shows the certificate of a member, present or past, of this
        one.

        Raises:
            IdentityError: it does.
        """
        if cluster != self._cluster_id and identify(certificate) in self._known:
            raise IdentityError(
                f"says it is {node!r} of cluster {cluster!r:.80}, but its certificate is that of a node "
                f"which is or was a member of {self._cluster_id!r}: a node of another cluster needs one of "
                f"its own"
            )

    @property
    def is_dirty(self) -> bool:
        """Something isn't on the disk yet."""
        return self._changes != self._changes_saved

    def save(self) -> None:
        """Write them down.

        Raises:
            DiskError: the disk refused.
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
        f"was ever removed from this cluster, or if its certificate has expired since; the members tell "
        f"each other the rest"
    )
