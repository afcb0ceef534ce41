"""The unmodified pysyncobj library with a test clock and transport, for the tests of its defects."""

from __future__ import annotations

from typing import Any

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class Clock:
    now = 100.0


class Wire(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for _, message in self.sent if message["type"] == kind]


class Connection:
    """An incoming connection, as the library's transport uses it."""

    def __init__(self) -> None:
        self.sendRandKey = None
        self.sent_messages: list[Any] = []

    def setOnMessageReceivedCallback(self, callback: Any) -> None:
        self.on_message = callback

    def send(self, message: Any) -> None:
        self.sent_messages.append(message)


class Stock(SyncObj):
    """The unmodified library, except for its transport and the effect of a command."""

    def __init__(self, clock: Clock, names: str, **conf: Any) -> None:
        self.clock, self.wire = clock, Wire()
        self.applied: list[bytes] = []
        settings: dict[str, Any] = {"raftMinTimeout": 0.4, "raftMaxTimeout": 0.6, "useFork": False} | conf
        super().__init__(
            Node(names[0]),
            [Node(name) for name in names[1:]],
            conf=SyncObjConf(autoTick=False, pollerType="select", **settings),
            nodeClass=Node,
            transport=self.wire,
        )
        self.nodes = {node.id: node for node in self.otherNodes}
        for node in self.nodes.values():
            self.wire._onNodeConnected(node)

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        if command[:1] == b"\x00":
            self.applied.append(command[1:])

    def hear(self, peer: str, kind: str, **fields: Any) -> None:
        self.wire._onMessageReceived(self.nodes[peer], {"type": kind, **fields})

    def private(self, name: str) -> Any:
        return self.__dict__[f"_SyncObj__{name}"]

    @property
    def last(self) -> int:
        return int(self.log()[-1][1])

    def log(self) -> list[tuple[bytes, int, int]]:
        return self.private("raftLog")[:]

    def lead(self, *voters: str) -> None:
        self.clock.now += 1
        self.doTick(0)
        for voter in voters or tuple(self.nodes):
            self.hear(voter, "response_vote", term=self.raftCurrentTerm)
        assert self._isLeader()
        self.wire.sent.clear()

    def propose(self, *commands: bytes) -> list[int]:
        """Propose commands at once. Returns a list to which the library appends its results."""
        results: list[int] = []
        for command in commands:
            self._applyCommand(command, lambda result, error: results.append(error), 0)
        self.doTick(0)
        return results

    def wait(self, seconds: float = 0.2) -> None:
        self.clock.now += seconds
        self.doTick(0)

    def has(self, peer: str, index: int) -> None:
        """Acknowledge all entries up to ``index`` as the peer."""
        self.hear(peer, "next_node_idx", next_node_idx=index + 1, reset=False, success=True)

    def follow(self, *entries: tuple[bytes, int, int], commit: int = 0, term: int = 1) -> None:
        """Receive entries after entry 1 from the leader b."""
        self.hear(
            "b",
            "append_entries",
            term=term,
            commit_index=commit,
            entries=list(entries),
            prevLogIdx=1,
            prevLogTerm=0,
        )


def entries(first: int, last: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(b"\x00%d" % index, index, term) for index in range(first, last + 1)]
