"""Convert ``-ns`` and related options into ``streaming.nats_server``.

With ``-ns``, clients connect to an external NATS server. Options about connections of clients to this node
have no effect then, and the log says so. ``-user``, ``-pass`` and ``-auth`` are credentials for that server,
as in the Go server. Without ``-ns``, options about that connection have no effect, and the log says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.config.reference_input import is_on
from node.config.tree import Items, Mapping, Scalar, Tree
from node.config.values import parse_url

if TYPE_CHECKING:
    from node.config.reference import Digest
    from node.config.reference_input import Given

_ALONE: Final = "no effect without -ns: there is no connection to an external NATS server"
_REFUSED: Final = {
    "streaming.credentials": "credentials files are not supported: use user:password@ in the URL",
    "streaming.nkey_seed_file": "nkeys are not supported: use user:password@ or token@ in the URL",
}
_TLS: Final = {
    "-tls_client_cert": "cert",
    "-tls_client_key": "key",
    "-tls_client_cacert": "ca",
    "streaming.tls.server_hostname": "server_name",
}
_INSECURE: Final = ("-secure", "streaming.tls.insecure")
_OURS: Final = ("clients.", "(users)", "(advertise)")
_LISTENS: Final = frozenset({"-net", "-port", "nats.listen"})
_SECTION: Final = "streaming.nats_server"


def external_nats(digest: Digest) -> None:
    """Set whether clients connect to an external NATS server, its URLs and the credentials for it."""
    wanted = digest.get("-nats_server")
    about = [given for given in digest.last.values() if given.option.to == "(external)" and given != wanted]
    if wanted is None or not is_on(wanted.value):
        digest.made.notes += [f"{given.name}: {_ALONE}" for given in about if is_on(given.value)]
        return
    digest.made.is_external = True
    _urls(digest, wanted)
    _credentials(digest)
    for given in about:
        problem = _REFUSED.get(given.option.name)
        if problem and is_on(given.value):
            digest.fail(given, problem)
    _tls(digest, wanted)
    unused = [given.name for given in digest.last.values() if _is_for_clients(given)]
    if unused:
        digest.made.notes.append(
            f"{', '.join(unused)}: no effect with -ns: clients connect to that NATS server"
        )
    clients = digest.made.tree.values.get("clients")
    if isinstance(clients, Mapping):
        for key in ("user", "password", "token", "users", "no_auth_user"):
            clients.values.pop(key, None)


def _is_for_clients(given: Given) -> bool:
    option = given.option
    return option.name in _LISTENS or (
        option.to.startswith(_OURS) and option.to not in ("clients.user", "clients.password", "clients.token")
    )


def _urls(digest: Digest, wanted: Given) -> None:
    assert isinstance(wanted.value, Scalar)
    urls: list[Tree] = []
    for word in wanted.value.text.split(","):
        text = word.strip()
        try:
            parse_url(text)
        except ValueError as error:
            digest.fail(wanted, str(error))
        urls.append(Scalar(wanted.place, "word", text))
    digest.mapping(_SECTION, wanted.place).put("urls", wanted.place, Items(wanted.place, urls))


def _credentials(digest: Digest) -> None:
    """Set the credentials: as in the Go server those of the NATS part, else those of the streaming part."""
    given = {
        key: digest.word(name) for key, name in (("user", "-user"), ("password", "-pass"), ("token", "-auth"))
    }
    if not any(given.values()):
        names = (("user", "streaming.user"), ("password", "streaming.pass"), ("token", "streaming.token"))
        given = {key: digest.word(name) for key, name in names}
    for key, text in given.items():
        if text:
            digest.put(f"{_SECTION}.{key}", "the credentials for -ns", text)


def _tls(digest: Digest, wanted: Given) -> None:
    for name, key in _TLS.items():
        if digest.word(name):
            digest.put(f"{_SECTION}.tls.{key}", digest.last[name].place, digest.word(name))
    if digest.flag(*_INSECURE):
        digest.put(f"{_SECTION}.tls.skip_verify", wanted.place, "true")
        digest.made.warnings.append("the certificate of the NATS server at -ns is not verified")
    elif "tls://" in digest.word("-nats_server").lower():
        digest.mapping(f"{_SECTION}.tls", wanted.place)
