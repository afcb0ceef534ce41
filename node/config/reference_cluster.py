"""Convert ``--clustered``, ``--cluster``, ``--routes`` and related options into the section ``cluster``.

``--cluster`` is this node's listen address for other nodes, ``--routes`` has the addresses of other nodes.
These may belong to this cluster or to another; each node reports its cluster. There are two ways to bootstrap
a cluster. Either all its nodes do it together and know each other's names: ``--cluster_peers n2,n3``. The
routes provide their addresses, or they are given: ``n2=10.0.0.2:6222``, with the port of the peer's own
``--cluster``. Or its first node does it alone, with ``--cluster_bootstrap`` and without peers; a node with
neither joins such a cluster through one of its routes. Nodes report their client addresses themselves.

A node that bootstraps alone or joins needs no name: a name is generated and kept in its directory.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.config.reference_input import Given, is_on
from node.config.tree import Items, Mapping, Scalar, Tree
from node.config.values import Address, parse_address, parse_url

if TYPE_CHECKING:
    from node.config.reference import Digest

ROUTE_PORT: Final = 6222
"""The port of routes without one."""

_CLUSTER_ONLY: Final = frozenset({"cluster_node_id", "cluster_peers", "cluster_bootstrap"})


EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # the reference's default for a port alone

_HAS_PORT: Final = re.compile(r"(^[^:]*|\]):\d{1,5}$")

NAME_FILE: Final = "node_id"
"""File in the node's directory with its generated name."""
NAME_BYTES: Final = 11
"""Random bytes of a generated name, which is their hexadecimal form."""


def cluster(digest: Digest) -> None:
    """Build the section ``cluster``: whether this node is clustered, its peers and its routes."""
    made = digest.made
    wanted = _wanted(digest)
    made.is_clustered = _is_clustered(digest)
    _routes(digest)
    if made.is_clustered:
        _members(digest)
        return
    for given in wanted:
        if given.by_flag and given.option.flags[-1] in _CLUSTER_ONLY:
            digest.fail(given, "has no effect without --clustered")
    own = _own_peer_address(digest)
    if own is not None:
        place = digest.last[_listening(digest)].place
        digest.put(f"cluster.nodes.{digest.name()}.peer", place, str(own))
    _peer_security(digest)


def _wanted(digest: Digest) -> list[Given]:
    return [
        given
        for given in digest.last.values()
        if given.option.section == "streaming.cluster"
        and (not given.by_flag or given.option.to == "(cluster)")
    ]


def _is_clustered(digest: Digest) -> bool:
    if digest.word("-clustered").lower() in ("false", "f", "0"):
        return False
    return digest.flag("-clustered") or any(not given.by_flag for given in _wanted(digest))


def generated_name(digest: Digest) -> str:
    """Return the generated name of a clustered node without a name; empty if a name was given or none is
    needed.

    The name is read from the node's directory. A new name is kept there later (``name_file``).
    """
    if not _is_clustered(digest) or _is_named(digest):
        return ""
    file = Path(digest.word("-dir") or ".", NAME_FILE)
    try:
        kept = file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        kept = ""
    except (OSError, UnicodeError) as error:
        digest.problems.append(f"{file}: can't be read: {error}")
        kept = ""
    if kept:
        return kept
    import secrets  # only needed here; the import is slow

    digest.made.name_file = str(file)
    return secrets.token_hex(NAME_BYTES)


def _is_named(digest: Digest) -> bool:
    """Return whether the nodes have names for each other (``--cluster_peers``)."""
    given = digest.get("-cluster_peers")
    return given is not None and bool(_words(given.value))


def _routes(digest: Digest) -> None:
    """Set the routes to dial. A node that listens for other nodes also accepts their routes."""
    given = digest.get("-routes")
    if given is None and not _listening(digest):
        return
    addresses: list[Tree] = []
    for word in _words(given.value) if given is not None else ():
        assert given is not None
        try:
            url = parse_url(word, default_port=ROUTE_PORT)
        except ValueError as error:
            digest.fail(given, str(error))
            continue
        if url.user or url.token:
            digest.made.notes.append(f"{given.name}: nodes authenticate by certificates; password ignored")
        addresses.append(Scalar(given.place, "word", str(Address(url.host, url.port))))
    place = given.place if given is not None else digest.last[_listening(digest)].place
    digest.mapping("cluster", place).put("routes", place, Items(place, addresses))


def _listening(digest: Digest) -> str:
    """Return the option with this node's listen address for other nodes; empty if there is none."""
    for name in ("-cluster_listen", "cluster.port"):
        given = digest.get(name)
        if given is not None and is_on(given.value):
            return name
    return ""


def _members(digest: Digest) -> None:
    made = digest.made
    place = next(
        (digest.last[n].place for n in ("-cluster_node_id", "-clustered") if n in digest.last), "cluster"
    )
    if not digest.word("-cluster_node_id") and _is_named(digest):
        digest.problems.append(f"{place}: a node in --cluster_peers needs a name: --cluster_node_id NAME")
        return
    made.node = digest.name()
    if digest.word("-store").upper() not in ("FILE", "SQL"):
        digest.problems.append(f"{place}: a clustered node needs the FILE store: --store FILE --dir DIR")
    digest.put("store.dir", place, digest.word("-dir") or ".")
    peers = _peers(digest)
    own = _own_peer_address(digest) or peers.pop(made.node, None)
    peers.pop(made.node, None)
    missing = [name for name, address in peers.items() if address is None]
    if missing and not _is_routed(digest):
        example = ",".join(f"{name}=HOST:PORT" for name in missing)
        digest.fail(
            digest.last["-cluster_peers"],
            f"{', '.join(missing)}: address missing. Add --routes to find it, or use NAME=HOST:PORT with the"
            f" port of that node's own --cluster: --cluster_peers {example}",
        )
    if own is None:
        digest.problems.append(
            f"{place}: this node needs an address for the other nodes: --cluster nats://HOST:PORT"
        )
    if not _is_named(digest):
        _set_start(digest, place)
    elif not peers:
        digest.problems.append(
            f"{place}: a cluster needs its other nodes: --cluster_peers NAME=HOST:PORT,…; or, for its first"
            " node, --cluster_bootstrap without peers"
        )
    made.peers = peers
    if own is not None:
        digest.put(f"cluster.nodes.{made.node}.peer", place, str(own))
        if Address(made.host, 1).is_unspecified and not digest.word("-client_advertise"):
            made.notes.append(
                f"clients are given the address of {own.host}; set another one with --client_advertise"
            )
    for name, address in made.peers.items():
        at = digest.last["-cluster_peers"].place
        if address is not None:
            digest.put(f"cluster.nodes.{name}.peer", at, str(address))
        digest.put(f"cluster.nodes.{name}.client", at, str(address or Address("127.0.0.1", 1)))
    _peer_security(digest)


def _set_start(digest: Digest, place: str) -> None:
    """Set how a node without ``--cluster_peers`` starts: it bootstraps a cluster alone or joins one."""
    if digest.flag("-cluster_bootstrap"):
        digest.put("cluster.bootstrap", digest.last["-cluster_bootstrap"].place, "true")
        digest.made.notes.append(f"{digest.made.node} bootstraps the cluster alone; others join by --routes")
    elif _is_routed(digest):
        digest.put("cluster.join", place, "true")
    else:
        digest.problems.append(
            f"{place}: a cluster needs its other nodes: --routes nats://HOST:PORT of a node, to join it;"
            " --cluster_peers NAME=HOST:PORT,…; or, for its first node, --cluster_bootstrap"
        )


def _is_routed(digest: Digest) -> bool:
    given = digest.get("-routes")
    return given is not None and is_on(given.value)


def _peers(digest: Digest) -> dict[str, Address | None]:
    given = digest.get("-cluster_peers")
    found: dict[str, Address | None] = {}
    for word in _words(given.value) if given is not None else ():
        name, equals, address = word.partition("=")
        found[name] = None
        if equals:
            try:
                found[name] = parse_address(_without_scheme(address))
            except ValueError as error:
                assert given is not None
                digest.fail(given, f"{name}: {error}")
                del found[name]
    return found


def _own_peer_address(digest: Digest) -> Address | None:
    """Return the address at which other nodes reach this node; also set its listen address if that differs.

    As in the Go server, a port without a host, or a wildcard, listens on every address, and
    ``cluster_advertise`` is the address that other nodes dial. Without it they dial the address from which
    this machine reaches its first route. Without certificates the node listens only on the loopback.
    """
    option = _listening(digest)
    if not option:
        return None
    given = digest.last[option]
    listen = _listen_address(digest, given)
    advertised = _advertised(digest, listen) if listen is not None else None
    if listen is None or (advertised is None and not listen.is_unspecified):
        return listen
    is_secured = digest.get("cluster.tls") is not None
    if advertised is None and is_secured and not digest.made.is_clustered:
        return listen  # the other clusters dial the source address of the connection
    local = listen if advertised is not None else Address(_local_host(digest), listen.port)
    peer = advertised or local
    if listen.is_unspecified and not is_secured:
        if not peer.is_loopback:
            digest.fail(
                given,
                f"to listen on every address, add certificates, cluster {{ tls {{}} }}, or use a loopback"
                f" address: nats://127.0.0.1:{listen.port}",
            )
            return None
        listen = Address("127.0.0.1", listen.port)
    if listen != peer:
        digest.put(f"cluster.nodes.{digest.name()}.peer_listen", given.place, str(listen))
    return peer


def _listen_address(digest: Digest, given: Given) -> Address | None:
    if "@" in digest.word("-cluster_listen"):
        digest.fail(given, "nodes authenticate by certificates, not by passwords: see cluster { tls {} }")
    text = _without_scheme(
        digest.word("-cluster_listen") or f"{digest.word('cluster.host')}:{digest.word('cluster.port')}"
    )
    host, _, port = text.rpartition(":")
    try:
        return parse_address(text if host else f"{EVERYWHERE}:{port}")
    except ValueError as error:
        digest.fail(given, str(error))
        return None


def _advertised(digest: Digest, listen: Address) -> Address | None:
    """Return the address in ``cluster_advertise``: a host, optionally with a port."""
    text = digest.word("-cluster_advertise")
    if not text:
        return None
    try:
        advertised = parse_address(text if _HAS_PORT.search(text) else f"{text}:{listen.port}")
    except ValueError as error:
        digest.fail(digest.last["-cluster_advertise"], str(error))
        return None
    if advertised.is_unspecified:
        digest.fail(digest.last["-cluster_advertise"], f"the other nodes can't connect to {advertised}")
        return None
    return advertised


def _local_host(digest: Digest) -> str:
    """Return the local address of connections to the first route; the loopback without a route."""
    given = digest.get("-routes")
    for word in _words(given.value) if given is not None else ():
        try:
            url = parse_url(word, default_port=ROUTE_PORT)
            found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_DGRAM)
            with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[0][4])  # UDP: sends nothing, but selects a local address
                host: str = probe.getsockname()[0]
        except (ValueError, OSError):
            continue  # `_routes` reports an invalid URL; an unknown host may be resolvable later
        return host
    return "127.0.0.1"


def _peer_security(digest: Digest) -> None:
    given = digest.get("cluster.tls")
    if given is None or not isinstance(given.value, Mapping):
        return
    names = {"cert_file": "cert", "key_file": "key", "ca_file": "ca"}
    for key, value in given.value.values.items():
        place = f"{given.value.key_places[key]}: {key}"
        if key.lower() in ("verify", "timeout", "insecure", "verify_and_map"):
            if key.lower() == "insecure" and is_on(value):
                digest.problems.append(f"{place}: nodes always check each other's certificates")
            continue  # certificates are always verified on both sides
        if key.lower() not in names or not isinstance(value, Scalar):
            digest.problems.append(f"{place}: unknown key; expected one of {', '.join(names)}")
            continue
        digest.put(f"cluster.peer_security.{names[key.lower()]}", place, value.text)
    digest.put("cluster.peer_security.mode", given.place, "mtls")


def _words(value: Tree) -> list[str]:
    """Return the words of a list, or of a text with commas."""
    if isinstance(value, Items):
        return [item.text for item in value.values if isinstance(item, Scalar)]
    assert isinstance(value, Scalar)
    return [word.strip() for word in value.text.split(",") if word.strip()]


def _without_scheme(text: str) -> str:
    """Return ``host:port`` of ``nats://user:password@host:port``."""
    return text.rpartition("//")[2].rpartition("@")[2].rstrip("/")
