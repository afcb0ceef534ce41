"""Convert ``authorization { users, default_permissions }`` of the Go server's file into ``clients.users``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.config.tree import Items, Mapping, Scalar, describe

if TYPE_CHECKING:
    from node.config.reference import Digest


def credentials(digest: Digest) -> None:
    """Set the users of the file; users without permissions get the default permissions."""
    users, everyones = digest.get("authorization.users"), digest.get("authorization.default_permissions")
    default = None
    if everyones is not None and isinstance(everyones.value, Mapping):
        default = _permissions(digest, everyones.value)
    if users is None or not isinstance(users.value, Items):
        if default is not None:
            assert everyones is not None
            digest.fail(everyones, "has no effect without users")
        return
    items = Items(users.place, [])
    digest.mapping("clients", users.place).put("users", users.place, items)
    for number, user in enumerate(users.value.values):
        place = f"{user.place}: users[{number}]"
        if not isinstance(user, Mapping):
            digest.problems.append(f"{place}: expected a map, not {describe(user)}")
            continue
        items.values.append(_user(digest, user, place, default))


def _user(digest: Digest, user: Mapping, place: str, default: Mapping | None) -> Mapping:
    made = Mapping(place)
    names = {"user": "user", "username": "user", "password": "password", "pass": "password"}
    for key, value in user.values.items():
        name = key.lower()
        if name == "permissions" and isinstance(value, Mapping):
            made.put("permissions", value.place, _permissions(digest, value))
        elif name not in names:
            digest.problems.append(f"{user.key_places[key]}: {key}: unknown or unsupported key")
        elif not isinstance(value, Scalar) or value.type not in ("text", "word"):
            digest.problems.append(f"{user.key_places[key]}: {key}: expected text, not {describe(value)}")
        else:
            made.put(names[name], user.key_places[key], Scalar(value.place, "text", value.text))
    if default is not None and "permissions" not in made.values:
        made.put("permissions", default.place, default)
    return made


def _permissions(digest: Digest, given: Mapping) -> Mapping:
    made = Mapping(given.place)
    verbs = {
        "publish": "publish",
        "pub": "publish",
        "import": "publish",
        "subscribe": "subscribe",
        "sub": "subscribe",
        "export": "subscribe",
    }
    for key, value in given.values.items():
        place = given.key_places[key]
        verb = verbs.get(key.lower())
        if verb is None:
            digest.problems.append(f"{place}: {key}: unknown or unsupported key")
            continue
        subjects = Mapping(place)
        parts = value.values if isinstance(value, Mapping) else {"allow": value}
        for part, patterns in parts.items():
            if part.lower() not in ("allow", "deny"):
                digest.problems.append(f"{place}: {key}: unknown key {part}; expected allow or deny")
                continue
            items = patterns if isinstance(patterns, Items) else Items(patterns.place, [patterns])
            subjects.put(part.lower(), place, items)
        made.put(verb, place, subjects)
    return made
