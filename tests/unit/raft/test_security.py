"""Checks of peer addresses, certificate files and names. The handshakes are in test_transport."""

from __future__ import annotations

import logging
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from node.config.values import Address
from node.errors import ConfigError, IdentityError
from node.raft import authority
from node.raft.security import MutualTLS, Plaintext


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    authority.init(tmp_path, ["n1", "n2"], {"n1": ["db1"]}, 30)
    return tmp_path


def tls(certs: Path, node: str = "n1", *, files: str = "n1") -> MutualTLS:
    return MutualTLS(node, certs / "ca.pem", certs / f"{files}.pem", certs / f"{files}.key")


def test_plaintext_is_for_the_loopback_only() -> None:
    """The error names every other address; a host name is accepted only if it is localhost."""
    good = [Address("127.0.0.1", 1), Address("127.8.8.8", 1), Address("::1", 1), Address("localhost", 1)]
    Plaintext().check_addresses(good)
    bad = [Address("0.0.0.0", 1), Address("10.0.0.1", 2), Address("n2", 3), Address("::", 4)]
    with pytest.raises(ConfigError) as caught:
        Plaintext().check_addresses([*good, *bad])
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        "peer address 0.0.0.0:1",
        "peer address 10.0.0.1:2",
        "peer address n2:3",
        "peer address [::]:4",
    ]


def test_tls_is_good_for_any_address(certs: Path) -> None:
    tls(certs).check_addresses([Address("0.0.0.0", 1)])


def test_both_ends_speak_tls_1_3_only_and_ask_for_a_certificate(certs: Path) -> None:
    contexts = tls(certs).contexts
    for context in (contexts.accept, contexts.dial):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert contexts.accept.num_tickets == 0


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("DNS", "n2"),),
        (("DNS", "*"),),
        (("DNS", "N1"),),
        (("DNS", "n1.example.com"),),
        (("IP Address", "n1"),),
        (("URI", "n1"),),
    ],
)
def test_only_the_exact_name_is_good_enough(certs: Path, names: tuple[tuple[str, str], ...]) -> None:
    security = tls(certs)
    security.check_peer({"subjectAltName": (("DNS", "db1"), ("DNS", "n1"))}, "n1")
    certificate = {"subject": ((("commonName", "n1"),),), "subjectAltName": names}
    with pytest.raises(IdentityError, match="says it is 'n1', but its certificate is for"):
        security.check_peer(certificate, "n1")
    for nothing in (None, {}):
        with pytest.raises(IdentityError, match="no node"):
            security.check_peer(nothing, "n1")


def test_our_own_certificate_must_be_ours(certs: Path) -> None:
    """The error is found at the start, not by peers that refuse this node later."""
    with pytest.raises(ConfigError, match=r"n1\.pem: the certificate is for n1, db1, expected DNS:n2"):
        tls(certs, "n2")


@pytest.mark.parametrize("missing", ["ca.pem", "n1.pem", "n1.key"])
def test_missing_and_senseless_files_are_named(certs: Path, missing: str) -> None:
    (certs / missing).write_bytes(b"no PEM")
    with pytest.raises(ConfigError, match=missing):
        tls(certs)
    (certs / missing).unlink()
    with pytest.raises(ConfigError, match=f"{missing}: No such file"):
        tls(certs)


def test_another_certificates_key_is_refused(certs: Path) -> None:
    shutil.copy(certs / "n2.key", certs / "n1.key")
    with pytest.raises(ConfigError, match=r"n1\.key: not the usable key"):
        tls(certs)


def test_an_encrypted_key_is_refused_and_nobody_asks_on_the_terminal(certs: Path) -> None:
    key = serialization.load_pem_private_key((certs / "n1.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (certs / "n1.key").write_bytes(encrypted)
    with pytest.raises(ConfigError, match="the key is encrypted"):
        tls(certs)


def test_a_key_that_others_can_read_is_warned_about(certs: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls(certs)
    assert not caplog.records
    (certs / "n1.key").chmod(0o640)
    with caplog.at_level(logging.WARNING, "stanchion.peers"):
        tls(certs)
    assert "n1.key can be read by others" in caplog.text


def test_reload_takes_new_files_and_keeps_the_old_ones_if_they_are_bad(certs: Path) -> None:
    security = tls(certs)
    before = security.contexts
    authority.issue(certs, ["n1"], {}, 30, force=True)
    security.reload()
    renewed = security.contexts
    assert renewed is not before
    (certs / "n1.pem").write_bytes(b"half a fi")
    with pytest.raises(ConfigError):
        security.reload()
    assert security.contexts is renewed
