"""How two nodes know that they talk to each other: mutual TLS, or on the loopback a shared secret.

TLS 1.3 only. Both sides show a certificate that the cluster's authority signed, and a peer is who
its certificate says: the ``DNS:<node name>`` among its alternative names must be, letter for letter,
the name in its hello. Hosts and addresses are not looked at, for nodes move; wildcards and common
names count for nothing.

Plaintext is refused unless every address involved is on the loopback. There both ends prove that they know
the peer secret (`handshake`), unless the configuration says that proofs are not required.

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
    """What OpenSSL needs for either end of a connection."""

    accept: ssl.SSLContext
    dial: ssl.SSLContext


class Security(Protocol):
    """What the transport asks."""

    @property
    def contexts(self) -> Contexts | None:
        """None: no TLS."""

    @property
    def secret(self) -> PeerSecret | None:
        """What peers without TLS share; None: there is TLS, or nothing."""

    @property
    def requires_proof(self) -> bool:
        """Whether a peer must prove that it knows the secret."""

    def check_addresses(self, addresses: Iterable[Address]) -> None:
        """Refuse addresses that this kind of security is too weak for.

        Raises:
            ConfigError: one line for each of them.
        """

    def check_peer(self, certificate: Mapping[str, Any] | None, node: str) -> None:
        """Compare the name in a hello with the certificate (as `ssl` decodes it; None without TLS).

        Raises:
            IdentityError: it is another's.
        """

    def check_remote_route(self, certificate: Mapping[str, Any] | None, node: str, cluster: Any) -> None:
        """Refuse a node of another cluster whose certificate is a member's of this one.

        Raises:
            IdentityError: it is.
        """

    def member_linked(self, certificate: Mapping[str, Any] | None, hello: Mapping[str, Any]) -> None:
        """A member has linked with this certificate and this hello."""

    def hello(self) -> Mapping[str, Any]:
        """What this node's hellos to members say besides."""

    @property
    def expiries(self) -> Sequence[Expiry]:
        """When this node's certificates run out."""

    def reload(self) -> None:
        """Read certificates again, if there are any, for new connections.

        Raises:
            ConfigError: they can't be used; the old ones stay in use.
        """


class Plaintext:
    """No security but the loopback's: any process that reaches the port may claim any name."""

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
        """See `Security`: there is nothing to note."""

    def hello(self) -> Mapping[str, Any]:
        """See `Security`: nothing."""
        return {}

    @property
    def expiries(self) -> Sequence[Expiry]:
        """See `Security`: nothing runs out."""
        return ()

    def reload(self) -> None:
        """See `Security`: there is nothing to read."""


class SharedSecret(Plaintext):
    """Plaintext on the loopback between nodes that know one secret.

    Args:
        load: reads the secret; raises ConfigError if it can't be used.
        required: whether peers must prove that they know it. If not, this node proves itself to those that
            want it, and takes any peer: for a rolling upgrade.

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
        node: our own name; our own certificate must carry it, or no peer would take us.
        ca: the authority's certificate, PEM; several may stand in one file while it is replaced.
        cert: our certificate, PEM.
        key: its private key, PEM, not encrypted.
        members: what members' certificates are noted in; None: they aren't.

    Raises:
        ConfigError: a file is missing or no PEM, the key is another certificate's, the certificate
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
        """See `Security`: certificates are all that counts."""
        return None

    @property
    def requires_proof(self) -> bool:
        """See `Security`."""
        return False

    def reload(self) -> None:
        """Read the files again, for new connections; those that stand are not touched.

        Raises:
            ConfigError: as at start; the old certificates stay in use then.
        """
        self._contexts = self._load()

    def check_addresses(self, addresses: Iterable[Address]) -> None:
        """See `Security`: good for any address."""

    def check_peer(self, certificate: Mapping[str, Any] | None, node: str) -> None:
        """See `Security`."""
        names = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
        if node not in names:
            raise IdentityError(
                f"says it is {node!r}, but its certificate is for {', '.join(names) or 'nobody'}"
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
            raise ConfigError([f"{self._ca}: no certificate of an authority in PEM: {error}"]) from error
        return [
            Expiry(self._cert, expires(contents[self._cert], self._cert)),
            Expiry(self._ca, authority_expires),
        ]

    def _check_own(self, content: bytes) -> None:
        from node.raft.authority import dns_names  # brings cryptography along

        names = dns_names(content, self._cert)
        if self._node not in names:
            known = ", ".join(names) or "nobody"
            raise ConfigError([f"{self._cert}: a certificate for {known}, where DNS:{self._node} is needed"])

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the name of the node is compared, in check_peer, not its host
        context.verify_mode = ssl.CERT_REQUIRED
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            # No tickets: every connection shows its certificates anew, so a reload takes effect.
            context.num_tickets = 0
        try:
            context.load_verify_locations(self._ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError([f"{self._ca}: no certificate of an authority in PEM: {error}"]) from error
        try:
            context.load_cert_chain(self._cert, self._key, password=_refuse_password)
        except (ssl.SSLError, OSError, _EncryptedKeyError) as error:
            raise ConfigError([f"{self._key}: not the usable key of {self._cert}: {error}"]) from error
        return context


class _EncryptedKeyError(Exception):
    pass


def _refuse_password() -> NoReturn:
    # Without this OpenSSL would ask on the terminal, and a service would wait there for ever.
    raise _EncryptedKeyError("the key is encrypted")
