"""Authentication of peers: mutual TLS, or a shared secret on the loopback.

TLS 1.3 only. Both sides present a certificate signed by the cluster's authority. The name in a peer's hello
must equal, byte for byte, one of the ``DNS:<node name>`` entries of its certificate. Hosts and addresses are
not checked, because nodes move; wildcards and common names are ignored.

Plaintext is refused unless every address involved is on the loopback. There both ends prove that they know
the peer secret (`handshake`), unless the configuration does not require proofs.

Source: RFC 8446; raft-engine.md PS-46, PS-18.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from node.errors import ConfigError, IdentityError
from node.raft.certificates import Expiry, MemberCertificates
from node.raft.links import Address
from node.raft.secret import PeerSecret

log = logging.getLogger("stanchion.peers")


@dataclass(frozen=True, slots=True)
class Contexts:
    """The OpenSSL contexts for both ends of a connection."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext


class Security(Protocol):
    """The security of a node, as the transport uses it."""

    @property
    def contexts(self) -> Contexts | None:
        """The TLS contexts; None without TLS."""

    @property
    def secret(self) -> PeerSecret | None:
        """The secret that peers without TLS share; None with TLS, or if there is none."""

    @property
    def requires_proof(self) -> bool:
        """Whether a peer must prove that it knows the secret."""

    def check_addresses(self, addresses: Iterable[Address]) -> None:
        """Refuse addresses for which this kind of security is too weak.

        Raises:
            ConfigError: one line for each of them.
        """

    def check_peer(self, certificate: Mapping[str, Any] | None, node: str) -> None:
        """Compare the name in a hello with the certificate (as `ssl` decodes it; None without TLS).

        Raises:
            IdentityError: the certificate is for another name.
        """

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """Refuse a node of another cluster that uses the certificate of a member of this one.

        Raises:
            IdentityError: it uses such a certificate.
        """

    def member_linked(self, certificate: Mapping[str, Any] | None, hello: Mapping[str, Any]) -> None:
        """Register the certificate and the hello of a member's link."""

    def hello(self) -> Mapping[str, Any]:
        """Return the additional fields of this node's hellos to members."""

    @property
    def expiries(self) -> Sequence[Expiry]:
        """The expiries of this node's certificates."""

    def reload(self) -> None:
        """Read certificates again, if there are any, for new connections.

        Raises:
            ConfigError: they can't be used; the old ones stay in use.
        """


class Plaintext:
    """No authentication: any process on the loopback that reaches the port may claim any name."""

    @property
    def contexts(self) -> None:
        return None

    @property
    def secret(self) -> PeerSecret | None:
        """See `Security`: there is none."""
        return None

    @property
    def requires_proof(self) -> bool:
        """See `Security`."""
        return False

    def check_addresses(self, addresses: Iterable[Address]) -> None:
        """See `Security`. A host name counts as loopback only if it is ``localhost``."""
        problems = [
            f"peer address {address}: without TLS peers must be on the loopback (peer_security mode: mtls)"
            for address in addresses
            if not address.is_loopback
        ]
        if problems:
            raise ConfigError(problems)

    def check_peer(self, certificate: Mapping[str, Any] | None, node: str) -> None:
        """See `Security`: there is nothing to compare with."""

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """See `Security`: there is nothing to compare with."""

    def member_linked(self, certificate: Mapping[str, Any] | None, hello: Mapping[str, Any]) -> None:
        """See `Security`: nothing is registered."""

    def hello(self) -> Mapping[str, Any]:
        """See `Security`: nothing."""
        return {}

    @property
    def expiries(self) -> Sequence[Expiry]:
        """See `Security`: nothing expires."""
        return ()

    def reload(self) -> None:
        """See `Security`: there is nothing to read."""


class SharedSecret(Plaintext):
    """Plaintext on the loopback between nodes that share a secret.

    Args:
        load: reads the secret; raises ConfigError if it can't be used.
        required: whether peers must prove that they know it. If False, this node accepts any peer, and proves
            itself to peers that require it: for a rolling upgrade.

    Raises:
        ConfigError: as ``load``.
    """

    def __init__(self, load: Callable[[], str], *, required: bool = True) -> None:
        self._load = load
        self._secret = PeerSecret(load())
        self._required = required

    @property
    def secret(self) -> PeerSecret:
        """See `Security`."""
        return self._secret

    @property
    def requires_proof(self) -> bool:
        """See `Security`."""
        return self._required

    def reload(self) -> None:
        """Read the secret again, for new connections.

        Raises:
            ConfigError: it can't be used; the old one stays in use.
        """
        self._secret = PeerSecret(self._load())


class MutualTLS:
    """TLS 1.3 with certificates on both sides.

    Args:
        node: this node's name; its certificate must contain it, or peers would refuse the node.
        ca: the authority's certificate, PEM; the file may hold several while the authority is replaced.
        cert: this node's certificate, PEM.
        key: its private key, PEM, not encrypted.
        members: stores the certificates of members; None: they are not stored.

    Raises:
        ConfigError: a file is missing or not PEM, the key does not match the certificate, or the certificate
            is not for this node.
    """

    def __init__(
        self, node: str, ca: Path, cert: Path, key: Path, members: MemberCertificates | None = None
    ) -> None:
        self._node = node
        self._members = members
        self._expiries: list[Expiry] = []
        self._ca = ca
        self._cert = cert
        self._key = key
        self._contexts = self._load()

    @property
    def contexts(self) -> Contexts:
        return self._contexts

    @property
    def secret(self) -> None:
        """See `Security`: certificates replace the secret."""
        return None

    @property
    def requires_proof(self) -> bool:
        """See `Security`."""
        return False

    def reload(self) -> None:
        """Read the files again, for new connections; present connections are not affected.

        Raises:
            ConfigError: as at start; the old certificates then stay in use.
        """
        self._contexts = self._load()

    def check_addresses(self, addresses: Iterable[Address]) -> None:
        """See `Security`: any address is allowed."""

    def check_peer(self, certificate: Mapping[str, Any] | None, node: str) -> None:
        """See `Security`."""
        names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
        if node not in names:
            raise IdentityError(
                f"says it is {node!r}, but its certificate is for {', '.join(names) or 'no node'}"
            )

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """See `Security`."""
        if self._members is not None:
            self._members.check_remote_route(certificate, node, cluster)

    def member_linked(self, certificate: Mapping[str, Any] | None, hello: Mapping[str, Any]) -> None:
        """See `Security`."""
        if self._members is not None:
            self._members.add(certificate)
            self._members.add_ids(hello.get("certificates"))

    def hello(self) -> Mapping[str, Any]:
        """See `Security`."""
        return {} if self._members is None else {"certificates": self._members.hello()}

    @property
    def expiries(self) -> Sequence[Expiry]:
        """See `Security`."""
        return self._expiries

    def _load(self) -> Contexts:
        expiries = self._check_files()
        contexts = Contexts(
            accept=self._context(ssl.PROTOCOL_TLS_SERVER), dial=self._context(ssl.PROTOCOL_TLS_CLIENT)
        )
        self._expiries = expiries
        return contexts

    def _check_files(self) -> list[Expiry]:
        from node.raft.authority import expires, last_expires  # brings cryptography along

        contents = {}
        for path in (self._ca, self._cert, self._key):
            try:
                contents[path] = path.read_bytes()
            except OSError as error:
                raise ConfigError([f"{path}: {error.strerror}"]) from error
        self._check_own(contents[self._cert])
        if self._key.stat().st_mode & 0o077:
            log.warning("%s can be read by others than its owner", self._key)
        try:
            authority_expires = last_expires(contents[self._ca], self._ca)
        except ConfigError as error:
            raise ConfigError([f"{self._ca}: expected an authority's certificate in PEM: {error}"]) from error
        return [
            Expiry(self._cert, expires(contents[self._cert], self._cert)),
            Expiry(self._ca, authority_expires),
        ]

    def _check_own(self, content: bytes) -> None:
        from node.raft.authority import dns_names  # brings cryptography along

        names = dns_names(content, self._cert)
        if self._node not in names:
            found = ", ".join(names) or "no node"
            raise ConfigError([f"{self._cert}: the certificate is for {found}, expected DNS:{self._node}"])

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # check_peer compares the node's name, not its host
        context.verify_mode = ssl.CERT_REQUIRED
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            # No tickets: every connection presents its certificates again, so a reload takes effect.
            context.num_tickets = 0
        try:
            context.load_verify_locations(self._ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError([f"{self._ca}: expected an authority's certificate in PEM: {error}"]) from error
        try:
            context.load_cert_chain(self._cert, self._key, password=_refuse_password)
        except (ssl.SSLError, OSError, _EncryptedKeyError) as error:
            raise ConfigError([f"{self._key}: not the usable key of {self._cert}: {error}"]) from error
        return context


class _EncryptedKeyError(Exception):
    pass


def _refuse_password() -> NoReturn:
    # Otherwise OpenSSL would prompt on the terminal, and a service would wait forever.
    raise _EncryptedKeyError("the key is encrypted")
