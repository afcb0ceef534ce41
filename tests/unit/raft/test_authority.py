"""The cluster's own authority: files, names, and what is never overwritten."""

from __future__ import annotations

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from node.errors import ConfigError
from node.raft import authority

NOW = datetime.datetime(2030, 1, 1, 12, 0, tzinfo=datetime.UTC)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_init_makes_an_authority_and_a_certificate_for_each_node(tmp_path: Path) -> None:
    """The directory is created too, and contains no other files."""
    directory = tmp_path / "deep" / "certs"
    written = authority.init(
        directory, ["n1", "n2"], {"n1": ["db1.example.com", "10.0.0.1", "::1"]}, 30, now=NOW
    )
    names = {"ca.pem", "ca.key", "n1.pem", "n1.key", "n2.pem", "n2.key"}
    assert {path.name for path in directory.iterdir()} == names
    assert {path.name for path in written} == names

    ca, n1 = certificate(directory / "ca.pem"), certificate(directory / "n1.pem")
    n1.verify_directly_issued_by(ca)
    names = n1.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n1", "db1.example.com"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    usage = n1.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not n1.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    authority.init(tmp_path, ["n1"], {}, 30)
    for path in tmp_path.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_certificates_hold_as_long_as_asked_and_the_authority_ten_years(tmp_path: Path) -> None:
    """Validity begins one hour ago, because clocks differ."""
    authority.init(tmp_path, ["n1"], {}, 30, now=NOW)
    n1 = certificate(tmp_path / "n1.pem")
    assert n1.not_valid_before_utc == NOW - datetime.timedelta(hours=1)
    assert n1.not_valid_after_utc == NOW + datetime.timedelta(days=30)
    assert certificate(tmp_path / "ca.pem").not_valid_after_utc == NOW + datetime.timedelta(days=3650)
    assert authority.expires((tmp_path / "n1.pem").read_bytes(), tmp_path) == n1.not_valid_after_utc


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """The error names every existing file, and no file is written."""
    (tmp_path / "n2.key").write_bytes(b"precious")
    (tmp_path / "ca.pem").write_bytes(b"precious too")
    before = content(tmp_path)
    with pytest.raises(ConfigError) as caught:
        authority.init(tmp_path, ["n1", "n2"], {}, 30)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        str(tmp_path / "ca.pem"),
        str(tmp_path / "n2.key"),
    ]
    assert content(tmp_path) == before


def test_force_replaces_everything_and_keeps_the_modes(tmp_path: Path) -> None:
    authority.init(tmp_path, ["n1"], {}, 30)
    before = content(tmp_path)
    (tmp_path / "n1.key").chmod(0o644)
    authority.init(tmp_path, ["n1"], {}, 30, force=True)
    after = content(tmp_path)
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    assert (tmp_path / "n1.key").stat().st_mode & 0o777 == 0o600


def test_a_node_is_added_later_with_the_same_authority(tmp_path: Path) -> None:
    authority.init(tmp_path, ["n1"], {}, 30)
    before = content(tmp_path)
    authority.issue(tmp_path, ["n4"], {}, 30)
    after = content(tmp_path)
    assert after.keys() - before.keys() == {"n4.pem", "n4.key"}
    assert all(after[name] == before[name] for name in before)
    certificate(tmp_path / "n4.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))
    with pytest.raises(ConfigError, match="exists already"):
        authority.issue(tmp_path, ["n4"], {}, 30)


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    authority.init(tmp_path, ["n1"], {}, 30, now=NOW)
    authority.issue(tmp_path, ["n2"], {}, 30, now=NOW + datetime.timedelta(days=3640))
    expected = certificate(tmp_path / "ca.pem").not_valid_after_utc
    assert certificate(tmp_path / "n2.pem").not_valid_after_utc == expected


def test_an_authority_that_is_missing_damaged_or_not_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem: No such file"):
        authority.issue(tmp_path, ["n1"], {}, 30)
    authority.init(tmp_path / "a", ["n1"], {}, 30)
    authority.init(tmp_path / "b", ["n1"], {}, 30)
    (tmp_path / "a" / "ca.key").write_bytes((tmp_path / "b" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"ca\.key: not the key of"):
        authority.issue(tmp_path / "a", ["n2"], {}, 30)
    (tmp_path / "b" / "ca.key").write_bytes(b"no key")
    with pytest.raises(ConfigError, match=r"ca\.key: no usable key"):
        authority.issue(tmp_path / "b", ["n2"], {}, 30)


@pytest.mark.parametrize(
    ("nodes", "hosts", "days", "problem"),
    [
        ([], {}, 30, "no node"),
        (["n1", "n1"], {}, 30, "twice"),
        (["ca"], {}, 30, "node name 'ca'"),
        (["../n1"], {}, 30, "node name '../n1'"),
        (["n 1"], {}, 30, "node name 'n 1'"),
        (["n1"], {}, 0, "0 days"),
        (["n1"], {"n2": ["x"]}, 30, "not among the nodes"),
        (["n1"], {"n1": ["a b"]}, 30, "expected a host name or an IP address"),
        (["n1"], {"n1": ["*.example.com"]}, 30, "expected a host name or an IP address"),
        (["n1", "n2"], {"n1": ["n2"]}, 30, "the name of another node"),
    ],
)
def test_names_that_cannot_be_used_are_refused_before_anything_is_written(
    tmp_path: Path, nodes: list[str], hosts: dict[str, list[str]], days: int, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        authority.init(tmp_path, nodes, hosts, days)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        authority.init(tmp_path / "file" / "certs", ["n1"], {}, 30)


@pytest.mark.parametrize("purpose", [ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH])
def test_openssl_agrees_in_its_strictest_mood(tmp_path: Path, purpose: ssl.Purpose) -> None:
    """OpenSSL accepts the certificates for a server and for a client."""
    authority.init(tmp_path, ["n1"], {}, 30)
    checking = ssl.create_default_context(purpose, cafile=str(tmp_path / "ca.pem"))
    checking.check_hostname = False
    checking.verify_mode = ssl.CERT_REQUIRED
    checking.verify_flags |= ssl.VERIFY_X509_STRICT
    showing = ssl.SSLContext(
        ssl.PROTOCOL_TLS_SERVER if purpose is ssl.Purpose.SERVER_AUTH else ssl.PROTOCOL_TLS_CLIENT
    )
    showing.check_hostname = False
    showing.verify_mode = ssl.CERT_NONE
    for context in (checking, showing):
        context.load_cert_chain(tmp_path / "n1.pem", tmp_path / "n1.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        checking.wrap_bio(there, back, server_side=purpose is ssl.Purpose.CLIENT_AUTH),
        showing.wrap_bio(back, there, server_side=purpose is ssl.Purpose.SERVER_AUTH),
    ]
    for _flight in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ("DNS", "n1") in ends[0].getpeercert()["subjectAltName"]
