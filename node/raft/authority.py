"""Creates the cluster's certificate authority and the certificates of its nodes.

A directory holds ``ca.pem`` and ``ca.key``, and ``<node>.pem`` and ``<node>.key`` for each node. A node needs
``ca.pem`` and its own two files. ``ca.key`` is only needed to issue further certificates: keep it in a safe
place. A node's certificate contains the name ``DNS:<node name>``, the only name that peers check
(`security`). Host names and addresses may be added so that the node can use it for clients too, but not the
name of another node: the certificate would then be valid for that node.

Keys are on P-256, readable by their owner only, and never shown or logged. An existing file is replaced only
with ``force``, and then atomically.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node.errors import ConfigError

AUTHORITY: Final = "ca"
AUTHORITY_DAYS_MIN: Final = 3650
"""An authority is valid for at least ten years: replacing it affects every node, replacing a certificate only
one."""

BACKDATED: Final = datetime.timedelta(hours=1)
"""Certificates are valid from one hour before they are issued, because the nodes' clocks may differ."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def init(
    directory: Path,
    nodes: Sequence[str],
    hosts: Mapping[str, Sequence[str]],
    valid_days: int,
    *,
    force: bool = False,
    now: datetime.datetime | None = None,
) -> list[Path]:
    """Create an authority and a certificate for each node; return the files written.

    Args:
        directory: created if it does not exist.
        nodes: the node names.
        hosts: for each node, host names and IP addresses to add to its certificate.
        valid_days: validity of the nodes' certificates.
        force: replace existing files. Certificates of the old authority are then no longer accepted.
        now: the current time, for tests; None: read the clock.

    Raises:
        ConfigError: invalid names or hosts, existing files, or a directory that can't be written.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    _check(nodes, hosts, valid_days)
    _check_free(directory, [AUTHORITY, *nodes], force=force)
    authority = _make_authority(now, max(valid_days, AUTHORITY_DAYS_MIN))
    written = _write_pair(directory, AUTHORITY, authority)
    return written + _issue_all(directory, authority, nodes, hosts, valid_days, now)


def issue(
    directory: Path,
    nodes: Sequence[str],
    hosts: Mapping[str, Sequence[str]],
    valid_days: int,
    *,
    force: bool = False,
    now: datetime.datetime | None = None,
) -> list[Path]:
    """Issue certificates with the existing authority, for further nodes or to replace old certificates.

    Arguments and errors are those of `init`; a ConfigError is also raised if the authority is missing or not
    usable. A certificate never outlives its authority.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    _check(nodes, hosts, valid_days)
    _check_free(directory, nodes, force=force)
    return _issue_all(directory, _read_authority(directory), nodes, hosts, valid_days, now)


def dns_names(pem: bytes, path: Path) -> list[str]:
    """Return the ``DNS:`` names of the first certificate in a PEM file's content.

    Raises:
        ConfigError: the content is no certificate.
    """
    certificate = _parse(pem, path)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def expires(pem: bytes, path: Path) -> datetime.datetime:
    """Return when the first certificate in a PEM file's content expires (UTC).

    Raises:
        ConfigError: the content is no certificate.
    """
    return _parse(pem, path).not_valid_after_utc


def last_expires(pem: bytes, path: Path) -> datetime.datetime:
    """Return the latest expiry (UTC) of the certificates in a PEM file's content, which may hold several
    authorities.

    Raises:
        ConfigError: the content is no certificate.
    """
    try:
        return max(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise ConfigError([f"{path}: no certificate in PEM: {error}"]) from error


def _parse(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise ConfigError([f"{path}: no certificate in PEM: {error}"]) from error


def _check(nodes: Sequence[str], hosts: Mapping[str, Sequence[str]], valid_days: int) -> None:
    problems = [
        f"node name {node!r}: expected 1 to 64 letters, digits, - or _, and not {AUTHORITY!r}"
        for node in nodes
        if not _NAME.fullmatch(node) or node == AUTHORITY
    ]
    if not nodes:
        problems.append("no node name is given")
    if len(set(nodes)) != len(nodes):
        problems.append("a node name is given twice")
    if valid_days < 1:
        problems.append(f"valid for {valid_days} days: at least 1 is needed")
    for node, names in hosts.items():
        if node not in nodes:
            problems.append(f"hosts are given for {node!r}, which is not among the nodes")
        for name in names:
            if name != node and name in nodes:
                problems.append(f"host {name!r} of {node!r} is the name of another node")
            elif not (_is_ip(name) or _HOST.fullmatch(name)):
                problems.append(f"host {name!r} of {node!r}: expected a host name or an IP address")
    if problems:
        raise ConfigError(problems)


def _check_free(directory: Path, names: Sequence[str], *, force: bool) -> None:
    paths = [directory / f"{name}{suffix}" for name in names for suffix in (".pem", ".key")]
    problems = [f"{path}: exists already" for path in paths if not force and path.exists()]
    if problems:
        raise ConfigError(problems)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _make_authority(now: datetime.datetime, valid_days: int) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The random part of the name distinguishes authorities that are created one after the other.
    name = _name(f"Stanchion cluster authority {secrets.token_hex(4)}")
    builder = (
        _builder(name, name, key.public_key(), now, now + datetime.timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()), key


def _issue_all(
    directory: Path,
    authority: _Pair,
    nodes: Sequence[str],
    hosts: Mapping[str, Sequence[str]],
    valid_days: int,
    now: datetime.datetime,
) -> list[Path]:
    written: list[Path] = []
    for node in nodes:
        pair = _issue(authority, node, hosts.get(node, ()), valid_days, now)
        written += _write_pair(directory, node, pair)
    return written


def _issue(
    authority: _Pair, node: str, hosts: Sequence[str], valid_days: int, now: datetime.datetime
) -> _Pair:
    issuer, issuer_key = authority
    until = min(now + datetime.timedelta(days=valid_days), issuer.not_valid_after_utc)
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(node)]
    for host in dict.fromkeys(hosts):
        if _is_ip(host):
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        elif host != node:
            names.append(x509.DNSName(host))
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]  # a node accepts and dials
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        _builder(_name(node), issuer.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority_key, critical=False)
    )
    return builder.sign(issuer_key, hashes.SHA256()), key


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_authority(directory: Path) -> _Pair:
    certificate_path, key_path = (directory / f"{AUTHORITY}{suffix}" for suffix in (".pem", ".key"))
    try:
        certificate = _parse(certificate_path.read_bytes(), certificate_path)
        key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}"]) from error
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise ConfigError([f"{key_path}: no usable key in PEM: {error}"]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError([f"{key_path}: not the key of {certificate_path}"])
    return certificate, key


def _write_pair(directory: Path, name: str, pair: _Pair) -> list[Path]:
    certificate, key = pair
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    paths = [directory / f"{name}.key", directory / f"{name}.pem"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(paths[0], key_pem, mode=0o600)
        _replace(paths[1], certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}"]) from error
    return paths


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    # Create the file with its final mode, so that a key is never readable by others, not even while it is
    # empty.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
