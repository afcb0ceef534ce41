"""``stanchion certs`` makes certificates and replaces none without ``--force``."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cli.main import main
from node.raft.authority import dns_names


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_init_makes_an_authority_and_a_pair_for_each_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "init", str(tmp_path), "--nodes", "n1,n2", "--hosts", "::1,n2=b.example"]) == 0
    assert files(tmp_path) == ["ca.key", "ca.pem", "n1.key", "n1.pem", "n2.key", "n2.pem"]
    assert len(capsys.readouterr().out.splitlines()) == 6
    names = {name: dns_names((tmp_path / f"{name}.pem").read_bytes(), tmp_path) for name in ("n1", "n2")}
    assert names == {"n1": ["n1"], "n2": ["n2", "b.example"]}


def test_init_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "init", str(tmp_path), "--nodes", "n1"]) == 0
    before = (tmp_path / "n1.pem").read_bytes()
    assert main(["certs", "init", str(tmp_path), "--nodes", "n1"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "n1.pem").read_bytes() == before
    assert main(["certs", "init", str(tmp_path), "--nodes", "n1", "--force"]) == 0
    assert (tmp_path / "n1.pem").read_bytes() != before


def test_if_missing_makes_only_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A container that runs at every start makes certificates once."""
    command = ["certs", "init", str(tmp_path), "--if-missing", "--nodes"]
    assert main([*command, "n1"]) == 0
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    capsys.readouterr()
    assert main([*command, "n1"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: all certificates exist\n"
    assert main([*command, "n1,n2"]) == 0
    assert files(tmp_path) == ["ca.key", "ca.pem", "n1.key", "n1.pem", "n2.key", "n2.pem"]
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_issue_makes_more_with_the_same_authority(tmp_path: Path) -> None:
    assert main(["certs", "issue", str(tmp_path), "--nodes", "n2"]) == 2
    assert main(["certs", "init", str(tmp_path), "--nodes", "n1"]) == 0
    assert main(["certs", "issue", str(tmp_path), "--nodes", "n2"]) == 0
    assert "n2.pem" in files(tmp_path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--nodes", "n1", "--hosts", "n2=b.example"], "n2 is not among the nodes"),
        (["--nodes", "n1,,n2"], "expected names separated by commas"),
        (["--nodes", "n1", "--hosts", "a b"], "expected a host name or an IP address"),
        (["--nodes", "n1", "--days", "0"], "at least 1 is needed"),
    ],
)
def test_invalid_arguments_are_refused(
    tmp_path: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certs", "init", str(tmp_path), *options]) == 2
    assert problem in capsys.readouterr().err
    assert files(tmp_path) == []
