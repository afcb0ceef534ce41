"""``--clustered``, ``--cluster``, ``--routes`` and what belongs to them, as our ``cluster``.

``--cluster`` is where this node listens for others, ``--routes`` where they are. They may be of this cluster
or of another; who is there says so. A cluster is founded in one of two ways. By all its nodes, which know
each other's names: ``--cluster_peers n2,n3``. Their addresses are learnt on the routes, or given:
``n2=10.0.0.2:6222``, where the port is that of the peer's own ``--cluster``. Or by its first node alone, with
``--cluster_bootstrap`` and no peers; a node with neither joins one that was founded so, at one of its routes.
Where the others take clients is learnt from themselves.

A node that founds alone or joins needs no name: one is drawn, and kept in its directory.
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
"""Where routes lead that don't name a port."""

_CLUSTER_ONLY: Final = frozenset({"cluster_node_id", "cluster_peers", "cluster_bootstrap"})


EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # the reference's default for a port alone

_HAS_PORT: Final = re.compile(r"(^[^:]*|\]):\d{1,5}$")

NAME_FILE: Final = "node_id"
"""In the node's directory: the name that was drawn for it."""
NAME_BYTES: Final = 11
"""So many random ones, in hexadecimal, are a name."""


def cluster(digest: Digest) -> None:
    """Whether this is a node of a cluster, and of which; whom it has routes to."""
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


def drawn_name(digest: Digest) -> str:
    """The name of a node of a cluster that was given none: its directory has it, or will have it. Empty: that
    is no such node.
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
    import secrets  # nobody else needs it before the port is open

    digest.made.name_file = str(file)
    return secrets.token_hex(NAME_BYTES)


def _is_named(digest: Digest) -> bool:
    """The nodes are named to each other."""
    given = digest.get("-cluster_peers")
    return given is not None and bool(_words(given.value))


def _routes(digest: Digest) -> None:
    """Who is dialed. A node that listens for others takes those that dial it, too."""
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
            digest.made.notes.append(f"{given.name}: nodes know each other by certificates, not by passwords")
        addresses.append(Scalar(given.place, "word", str(Address(url.host, url.port))))
    place = given.place if given is not None else digest.last[_listening(digest)].place
    digest.mapping("cluster", place).put("routes", place, Items(place, addresses))


def _listening(digest: Digest) -> str:
    """The option that says where this node listens for others; empty if none does."""
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
        digest.problems.append(f"{place}: a node that others name needs a name: --cluster_node_id NAME")
        return
    made.node = digest.name()
    if digest.word("-store").upper() not in ("FILE", "SQL"):
        digest.problems.append(f"{place}: the MEMORY store can't be clustered: use --store FILE --dir DIR")
    digest.put("store.dir", place, digest.word("-dir") or ".")
    peers = _peers(digest)
    own = _own_peer_address(digest) or peers.pop(made.node, None)
    peers.pop(made.node, None)
    missing = [name for name, address in peers.items() if address is None]
    if missing and not _is_routed(digest):
        example = ",".join(f"{name}=HOST:PORT" for name in missing)
        digest.fail(
            digest.last["-cluster_peers"],
            f"{', '.join(missing)}: no address. Give --routes, so that it can be found, or each as"
            f" NAME=HOST:PORT, the PORT being that of its own --cluster: --cluster_peers {example}",
        )
    if own is None:
        digest.problems.append(
            f"{place}: this node needs an address where the others reach it: --cluster nats://HOST:PORT"
        )
    if not _is_named(digest):
        _begins(digest, place)
    elif not peers:
        digest.problems.append(
            f"{place}: a cluster needs its other nodes: --cluster_peers NAME=HOST:PORT,…; or its first node"
            " --cluster_bootstrap and no peers, which founds it alone"
        )
    made.peers = peers
    if own is not None:
        digest.put(f"cluster.nodes.{made.node}.peer", place, str(own))
        if Address(made.host, 1).is_unspecified and not digest.word("-client_advertise"):
            made.notes.append(f"clients are told to connect to {own.host}; see --client_advertise")
    for name, address in made.peers.items():
        at = digest.last["-cluster_peers"].place
        if address is not None:
            digest.put(f"cluster.nodes.{name}.peer", at, str(address))
        digest.put(f"cluster.nodes.{name}.client", at, str(address or Address("127.0.0.1", 1)))
    _peer_security(digest)


def _begins(digest: Digest, place: str) -> None:
    """How a node becomes one of a cluster whose nodes don't name each other."""
    if digest.flag("-cluster_bootstrap"):
        digest.put("cluster.bootstrap", digest.last["-cluster_bootstrap"].place, "true")
        digest.made.notes.append(f"{digest.made.node} founds the cluster alone; others join it by --routes")
    elif _is_routed(digest):
        digest.put("cluster.join", place, "true")
    else:
        digest.problems.append(
            f"{place}: a cluster needs its other nodes: --routes nats://HOST:PORT to one of them, to join it;"
            " --cluster_peers NAME=HOST:PORT,…; or its first node --cluster_bootstrap, which founds it alone"
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
    """Return where the others reach this node, and put down where it listens, if that is elsewhere.

    As in the Go server a port alone, or a wildcard, listens on every address, and ``cluster_advertise``
    says what the others dial. Without that they dial the address from which this machine reaches its
    first route. Without certificates nothing but the loopback is listened on.
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
        return listen  # routing peers dial the address that a connection was seen to come from
    local = listen if advertised is not None else Address(_local_host(digest), listen.port)
    peer = advertised or local
    if listen.is_unspecified and not is_secured:
        if not peer.is_loopback:
            digest.fail(
                given,
                f"listening on every address needs certificates, cluster {{ tls {{}} }}; without them give a"
                f" loopback address: nats://127.0.0.1:{listen.port}",
            )
            return None
        listen = Address("127.0.0.1", listen.port)
    if listen != peer:
        digest.put(f"cluster.nodes.{digest.name()}.peer_listen", given.place, str(listen))
    return peer


def _listen_address(digest: Digest, given: Given) -> Address | None:
    if "@" in digest.word("-cluster_listen"):
        digest.fail(given, "nodes know each other by certificates, not by passwords: see cluster { tls {} }")
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
    """Return the address in ``cluster_advertise``: a host, perhaps with a port."""
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
    """The address from which this machine reaches its first route; the loopback without one."""
    given = digest.get("-routes")
    for word in _words(given.value) if given is not None else ():
        try:
            url = parse_url(word, default_port=ROUTE_PORT)
            found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_DGRAM)
            with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
                probe.connect(found[0][4])  # sends nothing: it asks the kernel for a way there
                host: str = probe.getsockname()[0]
        except (ValueError, OSError):
            continue  # a wrong URL is reported by `_routes`; a name that isn't known yet says nothing
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
            continue  # both sides are always verified
        if key.lower() not in names or not isinstance(value, Scalar):
            digest.problems.append(f"{place}: unknown key; known: {', '.join(names)}")
            continue
        digest.put(f"cluster.peer_security.{names[key.lower()]}", place, value.text)
    digest.put("cluster.peer_security.mode", given.place, "mtls")


def _words(value: Tree) -> list[str]:
    """The words of a list, or of a text with commas."""
    if isinstance(value, Items):
        return [item.text for item in value.values if isinstance(item, Scalar)]
    assert isinstance(value, Scalar)
    return [word.strip() for word in value.text.split(",") if word.strip()]


def _without_scheme(text: str) -> str:
    """``host:port`` of ``nats://user:password@host:port``."""
    return text.rpartition("//")[2].rpartition("@")[2].rstrip("/")
