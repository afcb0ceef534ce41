"""The NATS configuration language; no file can crash or block its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.config.conf import DEPTH_MAX, INCLUDES_MAX, read_conf
from node.config.tree import FILE_SIZE_MAX, Items, Mapping, Tree
from node.errors import ConfigError


def plain(tree: Tree) -> Any:
    """A tree as (type, text) pairs in dictionaries and lists."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.values.items()}
    if isinstance(tree, Items):
        return [plain(value) for value in tree.values]
    return tree.type, tree.text


def conf(tmp_path: Path, text: str, **environ: str) -> Any:
    file = tmp_path / "test.conf"
    file.write_text(text)
    return plain(read_conf(file, environ).tree)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 4222", ("integer", "4222")),
        ("a = -1", ("integer", "-1")),
        ("a 5", ("integer", "5")),
        ("a: 1k", ("integer", "1000")),
        ("a: 1KB", ("integer", "1024")),
        ("a: 2KiB", ("integer", "2048")),
        ("a: 1m", ("integer", "1000000")),
        ("a: 64MB", ("integer", str(64 << 20))),
        ("a: 1gb", ("integer", str(1 << 30))),
        ("a: 1t", ("integer", str(10**12))),
        ("a: 2.5", ("decimal", "2.5")),
        ("a: true", ("boolean", "true")),
        ("a: off", ("boolean", "false")),
        ("a: YES", ("boolean", "true")),
        ('a: "30s"', ("text", "30s")),
        ("a: '30s'", ("text", "30s")),
        ("a: 30s", ("text", "30s")),
        ("a: 10.0.0.5:4222", ("text", "10.0.0.5:4222")),
        ("a: nats://ann:pw@host:4222", ("text", "nats://ann:pw@host:4222")),
        ("a: 2024-01-02T03:04:05Z", ("text", "2024-01-02T03:04:05Z")),
        (r'a: "x\ty\x41\"\\"', ("text", 'x\tyA"\\')),
        (r"a: 'x\ty'", ("text", r"x\ty")),
        (r"a: x\ty", ("text", "x\ty")),
        ("a: $2a$11$abcdefgh", ("text", "$2a$11$abcdefgh")),
        ('"a": 5', ("integer", "5")),
        ("'a' = 5", ("integer", "5")),
        ("a: (\n  two\n  lines\n)", ("text", "two\n  lines")),
        ("# only\na: 5 # five\n// done", ("integer", "5")),
        ("a: 1; a: 2", ("integer", "2")),
        ("{a: 5}", ("integer", "5")),
        ('{"a": "b",}', ("text", "b")),
        ("a: [1, x, 'y z']", [("integer", "1"), ("text", "x"), ("text", "y z")]),
        ("a [\n 1 # one\n 2\n]", [("integer", "1"), ("integer", "2")]),
        ("a: []", []),
        ("a { b: 1, c { d = 2 } }", {"b": ("integer", "1"), "c": {"d": ("integer", "2")}}),
        ("a: {}", {}),
        ('a { "foo.>": {}, foo.*: {x: 2} }', {"foo.>": {}, "foo.*": {"x": ("integer", "2")}}),
    ],
)  # fmt: skip
def test_values(tmp_path: Path, text: str, value: Any) -> None:
    assert conf(tmp_path, text) == {"a": value}


def test_case_of_keys_is_kept_and_the_order_too(tmp_path: Path) -> None:
    """A channel's name is a key."""
    assert list(conf(tmp_path, "Port: 1\nfoo.Bar: 2\nb 3")) == ["Port", "foo.Bar", "b"]


def test_variables(tmp_path: Path) -> None:
    """Keys above, in this map or around it; then the environment, where only its use gives it a type."""
    text = "SIZE: 1KB\na { SIZE: 2KB, b: $SIZE, c { d: $SIZE } }\ne: $SIZE\nf: $PORT\ng: $LIST\nh: $PORT"
    found = conf(tmp_path, text, PORT="4333", LIST="[1, 2]")
    assert found["a"]["b"] == found["a"]["c"]["d"] == ("integer", "2048")
    assert found["e"] == ("integer", "1024")
    assert found["f"] == found["h"] == ("word", "4333")
    assert found["g"] == [("integer", "1"), ("integer", "2")]


def test_a_variable_that_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"environment variable A:1:3: \$A is neither"):
        conf(tmp_path, "a: $A", A="[ $A ]")


def test_keys_used_as_variables_are_returned(tmp_path: Path) -> None:
    """They need not be options."""
    file = tmp_path / "test.conf"
    file.write_text("  MINE: 5\nport: $MINE\n")
    tree, variables = read_conf(file, {})
    assert variables == {tree.key_places["MINE"]} == {f"{file}:1:3"}


def test_includes(tmp_path: Path) -> None:
    """Paths are relative to the including file; the last value counts; variables are visible in includes."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.conf").write_text("port: 1\nhost: $HOST\ninclude 'rest.conf'\n")
    (tmp_path / "sub" / "rest.conf").write_text("debug: true")
    found = conf(
        tmp_path, 'HOST: here\nport: 9\ninclude "sub/more.conf"\nhttp: 5\na { include sub/rest.conf }'
    )
    assert found["port"] == ("integer", "1")
    assert found["host"] == ("text", "here")
    assert found["debug"] == found["a"]["debug"] == ("boolean", "true")
    assert conf(tmp_path, "include: 5") == {"include": ("integer", "5")}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: {b: 1", "test.conf:1:9: '}' is missing; the map starts at"),
        ("a: [1, 2", "']' is missing; the list starts at"),
        ('a: "xyz\nb: 5', "test.conf:1:4: missing closing quotation mark"),
        ("a: 'xyz", "closing quotation mark"),
        ("a:\nb: 5", "test.conf:1:3: a: expected a value"),
        ("a", "a: expected a value"),
        ("= 5", "test.conf:1:1: expected a key"),
        ("a: }", "expected a value, not '}'"),
        ("a: 5 }", "expected a key, not '}'"),
        ("a: $NOWHERE", "$NOWHERE is neither an earlier key nor an environment variable"),
        ("x: 1\n\n  include 'missing.conf'", "missing.conf: can't be read: No such file"),
        ("a: (no end", "the end of this text block"),
        (r'a: "\q"', "unknown escape"),
        ("{a: 5} b", "expected the end of the file"),
        ("a: " + "{b: " * (DEPTH_MAX + 1), "nested maps and lists"),
        ("a: " + "[" * (DEPTH_MAX + 2), "nested maps and lists"),
    ],
)
def test_mistakes_say_where(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conf(tmp_path, text)
    assert problem in caught.value.problems[0]


def test_a_mistake_in_an_include_has_both_places(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("\na: ]")
    with pytest.raises(ConfigError, match=r"more.conf:2:4: .*\(included at .*test.conf:1:9\)"):
        conf(tmp_path, "include more.conf")


def test_a_name_that_no_file_can_have_is_a_mistake_like_others(tmp_path: Path) -> None:
    """Found by random text: a NUL in the name of an include raises ValueError, not OSError."""
    with pytest.raises(ConfigError, match="can't be read"):
        conf(tmp_path, 'include "a\x00b"')


def test_files_are_bounded(tmp_path: Path) -> None:
    """One that includes itself, one that is too long, one that is too long together with others."""
    with pytest.raises(ConfigError, match=f"{INCLUDES_MAX} nested includes"):
        conf(tmp_path, "include test.conf")
    with pytest.raises(ConfigError, match="longer than"):
        conf(tmp_path, "#" * (FILE_SIZE_MAX + 1))
    (tmp_path / "half.conf").write_text("#" * (FILE_SIZE_MAX // 2))
    with pytest.raises(ConfigError, match="longer than"):
        conf(tmp_path, "include half.conf\n" * 2)
    (tmp_path / "bytes.conf").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        conf(tmp_path, "include bytes.conf")
