"""Which cluster a command talks to: what the file says, and what the command line says otherwise."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import pytest

from node.cli.target import DEFAULT_SERVERS, Cluster, add_client, cluster_of
from node.errors import ConfigError


def arguments(words: Iterable[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_client(parser)
    return parser.parse_args(list(words))


def test_whom_to_ask_is_in_the_file_or_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "cluster: {id: shop, nodes: {n1: {client: '0.0.0.0:4100'}}}\nstore: {dir: data}\n", encoding="utf-8"
    )
    monkeypatch.setenv("STANCHION_CLIENT_PASSWORD", "pass")
    asked = cluster_of(arguments(["--config", str(file), "--user", "ann"]))
    assert asked == Cluster(["127.0.0.1:4100"], "shop", "ann", "pass")
    assert "pass" not in repr(asked)
    asked = cluster_of(arguments(["--config", str(file), "--server", "h:1,i:2", "--cluster", "x"]))
    assert (asked.servers, asked.id) == (["h:1", "i:2"], "x")
    assert cluster_of(arguments([])) == Cluster(DEFAULT_SERVERS, "test-cluster", "", "pass")
    with pytest.raises(ConfigError):
        cluster_of(arguments(["--set", "cluster.id=x"]))
