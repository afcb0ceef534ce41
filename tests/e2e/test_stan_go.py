"""What stan.go's stand-in says is what stan.go says: one conversation, byte for byte.

So it isn't another client of our own making. NUIDs are told by their length; everything else, the fields of
CONNECT and their order, spaces, the numbers and order of protobuf fields, the defaults, is compared.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from e2e.conftest import MakeProgram
from e2e.harness import Cluster
from e2e.ports import Ports

NUID = b"N" * 22


class Recorder:
    """Stands between one client and a node, and keeps what the client says."""

    def __init__(self, port: int, target: int) -> None:
        self.said = bytearray()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._target = target
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        near, _ = self._listener.accept()
        with near, socket.create_connection(("127.0.0.1", self._target)) as far:
            back = threading.Thread(target=self._forward, args=(far, near), daemon=True)
            back.start()
            while data := near.recv(65536):
                self.said += data
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)
            back.join()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def close(self) -> bytes:
        """Everything that was said, once the client has gone."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._listener.close()
        return bytes(self.said)


@pytest.fixture
def recorder(single: Cluster, ports: Ports) -> Iterator[Recorder]:
    recorder = Recorder(ports.take(), single.ports["n1"]["client"])
    yield recorder
    recorder.close()


def masked(said: bytes) -> bytes:
    """NUIDs as their length, and the eight characters of a request's inbox."""
    said = re.sub(rb"(?<![0-9A-Za-z])[0-9A-Za-z]{22}(?![0-9A-Za-z])", NUID, said)
    return re.sub(rb"(_INBOX\.N{22})\.[0-9A-Za-z]{8} ", rb"\1.R ", said)


INBOX = b"_INBOX." + NUID
ACKS = b"_INBOX." + NUID + b"." + NUID  # as our server names them

CONVERSATION = (
    b'CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"gopher","lang":"go",'
    b'"version":"1.22.1","protocol":1,"echo":true,"headers":true,"no_responders":true}\r\n'
    b"PING\r\n"
    b"SUB " + INBOX + b"  1\r\n"  # heartbeats
    b"SUB " + INBOX + b"  2\r\n"  # answers to pings
    b"SUB " + INBOX + b".*  3\r\n"  # answers to requests
    b"PUB _STAN.discover.test-cluster " + INBOX + b".R 69\r\n"
    b"\n\x06gopher\x12\x1d" + INBOX + b'\x18\x01"\x16' + NUID + b"(\x050X\r\n"
    b"SUB _STAN.acks." + NUID + b"  4\r\n"
    b"SUB " + INBOX + b"  5\r\n"
    b"PUB _STAN.sub.test-cluster " + INBOX + b".R 63\r\n"
    b'\n\x06gopher\x12\x03foo\x1a\x01q"\x1d' + INBOX + b"(\x80\x080\x1e:\x07durableP\x04\r\n"
    b"PUB _STAN.pub.test-cluster.foo _STAN.acks." + NUID + b" 65\r\n"
    b"\n\x06gopher\x12\x16" + NUID + b"\x1a\x03foo*\x02m12\x16" + NUID + b"\r\n"
    b"PUB " + ACKS + b" 7\r\n\n\x03foo\x10\x01\r\n"
    b"UNSUB 5 \r\n"
    b"PUB _STAN.subclose.test-cluster " + INBOX + b".R 67\r\n"
    b"\n\x06gopher\x12\x03foo\x1a4" + ACKS + b"\r\n"
    b"PUB _STAN.close.test-cluster " + INBOX + b".R 8\r\n\n\x06gopher\r\n"
)


def test_conversation_of_stan_go(single: Cluster, recorder: Recorder, program: MakeProgram) -> None:
    """CLI-01. Connect, subscribe, publish, receive and ack, close the subscription, close."""
    port = recorder._listener.getsockname()[1]
    client = program("go")
    client.call("connect", urls=f"nats://127.0.0.1:{port}", cluster=single.cluster_id, client="gopher")
    client.call("subscribe", sub="s", channel="foo", queue="q", durable="durable", start="all")
    client.publish("foo", 1)
    client.wait("s", 1)
    client.call("close_sub", sub="s")
    client.call("close")
    said = masked(recorder.close())
    for received, expected in zip(said.split(b"\r\n"), CONVERSATION.split(b"\r\n"), strict=False):
        assert received == expected
    assert said == CONVERSATION
