"""Put environment variables and ``--set`` flags into the configuration tree.

``STANCHION_RAFT_HEARTBEAT=50ms`` and ``--set raft.heartbeat=50ms`` equal that line in the file. A flag
overrides a variable, a variable overrides the file. The value is one word if the option is a scalar, taken
literally; else it is YAML: ``--set 'raft.election_timeout=[1s, 2s]'``.

Variables whose name does not start with a section's name are ignored without a warning: container platforms
create ``STANCHION_PORT`` for a service called stanchion. Variables that Kubernetes creates for a service
named like a section (``stanchion-monitoring``: ``STANCHION_MONITORING_PORT=tcp://10.0.0.7:8222``) are ignored
with a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from collections.abc import Mapping as AbstractMapping
from typing import Any

from node.config.model import Config
from node.config.schema import Hidden, Named, Section, Shape, Word, options
from node.config.tree import Items, Mapping, Scalar, Tree, parse

log = logging.getLogger("stanchion.config")

PREFIX = "STANCHION_"
_SERVICE = re.compile(
    r"_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT(_\d{1,5}_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?"
)
"""Suffixes of the variables that Kubernetes creates for a service.

Source: Kubernetes documentation, "Service", environment variables."""
_URL = re.compile(r"(tcp|udp|sctp)://")
_STEP = re.compile(r'(?:"([^"]*)"|([^."=\s]+))(\.|=)')


def apply_environment(tree: Mapping, environ: AbstractMapping[str, str]) -> list[str]:
    """Put every ``STANCHION_…`` variable that names an option into ``tree``; return the mistakes."""
    problems = []
    names = dict(_variables(Config, tree))
    secrets = set(_secret_variables(tree))
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in secrets:
            continue
        words = name.removeprefix(PREFIX)
        section = next(
            (o for o in options(Config) if words == o.key.upper() or words.startswith(f"{o.key.upper()}_")),
            None,
        )
        if section is None:
            continue
        place = f"environment variable {name}"
        if _is_of_a_service(name, environ):
            log.warning("%s: ignored: Kubernetes created it for a service", place)
            continue
        if name not in names:
            problems.append(f"{place}: no such option{hint(name, names)}")
            continue
        path, shape = names[name]
        problems += _put(tree, path, shape, environ[name], place)
    return problems


def _is_of_a_service(name: str, environ: AbstractMapping[str, str]) -> bool:
    """Return whether Kubernetes created the variable: each service has a ``<NAME>_PORT=tcp://…``."""
    return any(
        _URL.match(environ.get(f"{name[: found.start()]}_PORT", ""))
        for found in _SERVICE.finditer(name)
        if found.end() == len(name)
    )


def _secret_variables(tree: Tree) -> Iterable[str]:
    """Yield the variables that the file reads secrets from: they are not overrides."""
    if isinstance(tree, Mapping):
        for key, value in tree.values.items():
            if key.endswith("_env") and isinstance(value, Scalar):
                yield value.text
            yield from _secret_variables(value)
    elif isinstance(tree, Items):
        for value in tree.values:
            yield from _secret_variables(value)


def _variables(
    of: type[Any], tree: Tree | None, variable: str = PREFIX, path: tuple[str, ...] = ()
) -> Iterable[tuple[str, tuple[tuple[str, ...], Shape]]]:
    """Yield all variables that can override this file: name, path and shape of the option."""
    present = tree.values if isinstance(tree, Mapping) else {}
    for option in options(of):
        for key in option.keys:
            yield variable + key.upper(), ((*path, key), option.shape)
        here, below = (*path, option.key), f"{variable}{option.key.upper()}_"
        branch = present.get(option.key)
        if isinstance(option.shape, Section):
            yield from _variables(option.shape.of, branch, below, here)
        elif isinstance(option.shape, Named) and isinstance(branch, Mapping):
            for name, child in branch.values.items():
                word = name.upper().replace("-", "_")
                if re.fullmatch(r"[A-Z0-9_]+", word):
                    yield from _variables(option.shape.of, child, f"{below}{word}_", (*here, name))


def apply_flags(tree: Mapping, flags: Iterable[str]) -> list[str]:
    """Put every ``section.key=value`` into ``tree``; return the mistakes."""
    problems = []
    for flag in flags:
        path, text = split_flag(flag)
        if not path:
            problems.append(f"--set {flag.partition('=')[0]}: expected section.key=value")
            continue
        place = f"--set {'.'.join(path)}"
        # An unknown path is inserted too: the reader then reports the unknown key.
        problems += _put(tree, path, _shape_at(path), text, place)
    return problems


def split_flag(flag: str) -> tuple[tuple[str, ...], str]:
    """Split ``a.b."c.d".e=text`` into path and text. The path is empty if the form is wrong."""
    path: list[str] = []
    at = 0
    while step := _STEP.match(flag, at):
        path.append(step[1] if step[1] is not None else step[2])
        at = step.end()
        if step[3] == "=":
            return tuple(path), flag[at:]
    return (), ""


def _shape_at(path: tuple[str, ...]) -> Shape | None:
    of: type[Any] = Config
    shape: Shape | None = Section(Config)
    steps = iter(path)
    for key in steps:
        shape = next((option.shape for option in options(of) if key in option.keys), None)
        match shape:
            case Section(of=below):
                of = below
            case Named(of=below):
                of = below
                if next(steps, None) is not None:
                    shape = Section(below)
            case _:
                return shape if next(steps, None) is None else None
    return shape


def _put(tree: Mapping, path: tuple[str, ...], shape: Shape | None, text: str, place: str) -> list[str]:
    """Replace the value at ``path``; create missing mappings on the way."""
    value: Tree | None
    if shape is None or isinstance(shape, Word | Hidden):
        value = Scalar(place, "word", text)
    else:
        parsed = parse(text, place, positions=False)
        if parsed.problems:
            return parsed.problems
        value = parsed.tree or Scalar(place, "null", "")
    *way, last = path
    for depth, key in enumerate(way):
        below = tree.values.get(key)
        if isinstance(below, Items):
            return [f"{place}: {'.'.join(path[: depth + 1])} is a list; set it as a whole"]
        if not isinstance(below, Mapping):
            below = Mapping(place)
            tree.put(key, place, below)
        tree = below
    if isinstance(shape, Hidden):  # replace the secret, however the file gives it
        stem = last.removesuffix("_env").removesuffix("_file")
        for other in (stem, f"{stem}_env", f"{stem}_file"):
            tree.values.pop(other, None)
    tree.put(last, place, value)
    return []


def hint(word: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean …?`` with the most similar word of ``valid``, or nothing if none is similar."""
    import difflib  # only needed for mistakes

    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
