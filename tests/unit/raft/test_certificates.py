"""Expiry of certificates, and the list of members' certificates."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from node.errors import CorruptionError, IdentityError
from node.raft.certificates import FILE_NAME, ID_BYTES, KNOWN_MAX, Expiry, MemberCertificates, identify
from node.raft.memory_disk import MemoryDisk

NOW = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
ISSUER = ((("commonName", "authority"),),)


def certificate(serial: str, issuer: object = ISSUER) -> dict[str, object]:
    return {"serialNumber": serial, "issuer": issuer, "subjectAltName": (("DNS", "n3"),)}


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (datetime.timedelta(days=31), ""),
        (datetime.timedelta(days=30), "expires in 30 days, on 2026-12-31 00:00 UTC: issue a new one"),
        (datetime.timedelta(days=1, hours=1), "expires in 25 hours"),
        (
            datetime.timedelta(0),
            "expired on 2026-12-01 00:00 UTC: new links between nodes can't be established",
        ),
    ],
)
def test_warning(left: datetime.timedelta, says: str) -> None:
    expiry = Expiry(Path("n1.pem"), NOW + left)
    assert says in expiry.warning(NOW)
    assert bool(expiry.warning(NOW)) is bool(says)
    assert expiry.has_expired(NOW) is (not left)


def test_members_certificate_is_no_other_clusters() -> None:
    members = MemberCertificates("south", MemoryDisk())
    members.add(certificate("01"))
    members.check_remote_route(certificate("01"), "n3", "south")  # a member may look for members on routes
    members.check_remote_route(certificate("02"), "n3", "north")  # another's of the same name
    members.check_remote_route(certificate("01", ((("commonName", "another authority"),),)), "n3", "north")
    members.check_remote_route(None, "n3", "north")
    with pytest.raises(IdentityError, match="is or was a member of 'south'"):
        members.check_remote_route(certificate("01"), "n3", "north")


def test_certificates_are_stored_and_sent() -> None:
    disk = MemoryDisk()
    members = MemberCertificates("south", disk)
    assert not members.is_dirty
    members.add(certificate("01"))
    assert members.is_dirty
    members.save()
    members.add(certificate("01"))
    members.add(None)
    assert not members.is_dirty
    again, joining = MemberCertificates("south", disk), MemberCertificates("south", MemoryDisk())
    joining.add_ids(again.hello())
    for one in (again, joining):
        with pytest.raises(IdentityError):
            one.check_remote_route(certificate("01"), "n3", "north")


TOO_MANY = b"x" * (ID_BYTES * KNOWN_MAX + ID_BYTES)


@pytest.mark.parametrize("told", [None, "text", b"x", TOO_MANY, [b"x" * ID_BYTES]])
def test_a_malformed_list_of_certificates_is_ignored(told: object) -> None:
    members = MemberCertificates("south", MemoryDisk())
    members.add_ids(told)
    assert members.hello() == b""


def test_they_are_bounded() -> None:
    members = MemberCertificates("south", MemoryDisk())
    for number in range(KNOWN_MAX + 10):
        members.add(certificate(f"{number:x}"))
    assert len(members.hello()) == KNOWN_MAX * ID_BYTES < 32 * 1024
    newest = identify(certificate(f"{KNOWN_MAX + 9:x}"))
    assert newest is not None
    assert newest in members.hello()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": 2}', b'{"format": 1, "certificates": ["xyz"]}', b"[]"]
)
def test_damaged_file_is_not_taken_for_an_empty_one(content: bytes) -> None:
    disk = MemoryDisk()
    with_file = disk.open(FILE_NAME, create=True)
    with_file.write(0, [content])
    with pytest.raises(CorruptionError, match="list of members' certificates is damaged"):
        MemberCertificates("south", disk)
