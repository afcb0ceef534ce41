"""A newcomer and a member over real sockets on the loopback: what is asked and answered, when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.config.values import Address
from node.errors import IdentityError, UnavailableError
from node.raft import authority
from node.raft.membership import Member, Membership
from node.raft.memory_disk import MemoryDisk
from node.raft.security import MutualTLS, Plaintext, Security
from node.raft.transport import Transport
from node.server.administration.asking import Answer
from node.server.membership import join
from node.server.membership.bootstrap import Invitation, pack_membership
from node.server.membership.join import JoinClient, JoinServer, drawn, forget

SOON = 5.0  # seconds until a test that hangs is given up; nothing waits for it
OPEN = Membership((Member("n1", "127.0.0.1:1", True, ""),), joinable=True)
LISTEN = Address("127.0.0.1", 6009)


class Leader:
    """What the member asks; answers as the test says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.says: Callable[[dict[str, Any]], dict[str, Any] | None] = self.lets_in

    def ask(self, verb: str, fields: dict[str, Any], answer: Answer) -> None:
        assert verb == "cluster.join"
        self.asked.append(fields)
        answer({"progress": "it is being thought of"})
        said = self.says(fields)
        if said is not None:
            answer(said)

    @staticmethod
    def lets_in(fields: dict[str, Any]) -> dict[str, Any]:
        membership = OPEN.with_learner(fields["name"], fields["peer"], fields["directory"])
        return {"ok": {"membership": pack_membership(7, membership)}}


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Leader:
    monkeypatch.setattr(join, "PAUSE_S", 0.01)
    monkeypatch.setattr(join, "ANSWER_S", 0.2)
    return Leader()


@asynccontextmanager
async def member(
    leader: Leader, *, cluster: str = "a", bootstrap: str = "f", security: Security | None = None
) -> AsyncIterator[Address]:
    """A member; where it is."""
    transport = Transport(
        "n1",
        {},
        Address("127.0.0.1", 0),
        security or Plaintext(),
        lambda _link: {},
        lambda _link, _hello: None,
    )
    transport.serve_joiners(JoinServer(cluster, "n1", lambda: bootstrap, leader).accept)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        yield Address("127.0.0.1", transport.listening[0][1])
        nursery.cancel_scope.cancel()


async def enter(*routes: Address, within_s: float = SOON, directory: str = "d") -> Invitation:
    return await JoinClient("a", "n4", LISTEN, directory, Plaintext()).enter(routes, within_s)


async def test_a_joining_node_gets_its_first_membership(leader: Leader) -> None:
    """And the leader, who it is, where, and by which directory it asks."""
    async with member(leader) as where:
        invitation = await enter(where)
    wanted = OPEN.with_learner("n4", "127.0.0.1:6009", "d")
    assert invitation == Invitation("f", 7, wanted)
    assert leader.asked == [
        {"name": "n4", "peer": "127.0.0.1:6009", "directory": "d", "within": join.ANSWER_S}
    ]


async def test_join_is_repeated_until_a_member_answers(leader: Leader) -> None:
    """One route leads nowhere, one to another cluster; the member has no leader at first, nor does it know
    the founding; once it says nothing at all."""
    others = Leader()
    foundings = iter(["", "f", "f", "f"])
    answers = iter([{"error": "there has been no leader for 10 s"}, None])
    leader.says = lambda fields: next(answers, leader.lets_in(fields))
    async with member(others, cluster="b") as elsewhere:
        transport = Transport(
            "n1", {}, Address("127.0.0.1", 0), Plaintext(), lambda _link: {}, lambda _link, _hello: None
        )
        transport.serve_joiners(JoinServer("a", "n1", lambda: next(foundings, "f"), leader).accept)
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            here = Address("127.0.0.1", transport.listening[0][1])
            invitation = await enter(Address("127.0.0.1", 1), elsewhere, here)
            nursery.cancel_scope.cancel()
    assert invitation.cluster_uuid == "f"
    assert len(leader.asked) == 3
    assert others.asked == []


async def test_a_declined_node_does_not_ask_again(leader: Leader) -> None:
    leader.says = lambda _fields: {"ok": {"declined": "n4 is a member already"}}
    async with member(leader) as where:
        with pytest.raises(IdentityError, match=r"^failed to join Raft group a: n4 is a member already$"):
            await enter(where)
    assert len(leader.asked) == 1


async def test_join_without_an_answer_gives_up() -> None:
    """In the Go server's words."""
    with pytest.raises(UnavailableError, match=r"^failed to join Raft group a$"):
        await enter(Address("127.0.0.1", 1), within_s=0.1)


async def test_an_answer_for_another_node_is_refused(leader: Leader) -> None:
    leader.says = lambda fields: leader.lets_in({**fields, "directory": "other"})
    async with member(leader) as where:
        with pytest.raises(UnavailableError):
            await enter(where, within_s=0.3)
    assert leader.asked


async def test_a_member_without_join_server_is_skipped() -> None:
    """An earlier release, or one that isn't ready: its refusal settles nothing."""
    transport = Transport(
        "n1", {}, Address("127.0.0.1", 0), Plaintext(), lambda _link: {}, lambda _link, _hello: None
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        with pytest.raises(UnavailableError):
            await enter(Address("127.0.0.1", transport.listening[0][1]), within_s=0.3)
        nursery.cancel_scope.cancel()


async def test_with_certificates_the_name_is_the_certificates(leader: Leader, tmp_path: Path) -> None:
    """Of the newcomer, whom the leader isn't even asked about else; and of who lets it in."""
    authority.init(tmp_path, ["n1", "n4", "n5"], {}, 30)

    def mutual(node: str) -> MutualTLS:
        return MutualTLS(node, tmp_path / "ca.pem", tmp_path / f"{node}.pem", tmp_path / f"{node}.key")

    async with member(leader, security=mutual("n1")) as where:
        invitation = await JoinClient("a", "n4", LISTEN, "d", mutual("n4")).enter([where], SOON)
        assert invitation.membership.learners == ("n4",)
        for security in (mutual("n5"), Plaintext()):
            with pytest.raises(UnavailableError):
                await JoinClient("a", "n4", LISTEN, "d", security).enter([where], 0.3)
    assert len(leader.asked) == 1
    async with member(leader, security=mutual("n5")) as where:  # it says it is n1
        with pytest.raises(UnavailableError):
            await JoinClient("a", "n4", LISTEN, "d", mutual("n4")).enter([where], 0.3)


def test_directory_id_is_kept_until_the_node_has_joined() -> None:
    """So that a process that was killed goes on as who it was."""
    disk = MemoryDisk()
    first = drawn(disk)
    assert drawn(disk) == first
    forget(disk)
    assert drawn(disk) != first
