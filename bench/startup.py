"""How soon a single server is there: ``python -m bench.startup`` starts one again and again, and says when.

Suites and scripts that were written for the Go server try to connect once, a quarter of a second after they
started it. So three moments are measured, from exec on: a connection is taken, INFO is read, PONG is
read. The first start is not counted: it compiles the modules. Exit status 1: the median PONG
came later than the target, which is meant for two cores with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_MS = 350.0
COMMAND = Path(sys.executable).parent / "nats-streaming-server"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--starts", type=int, default=11, metavar="N", help="how often (11)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stanchion-startup-") as folder:
        measured = [start(folder) for _ in range(args.starts + 1)][1:]
    found = {
        name: {"median": round(statistics.median(column)), "min": round(min(column))}
        for name, column in zip(
            ("taken_ms", "info_ms", "pong_ms", "cpu_ms"), zip(*measured, strict=True), strict=True
        )
    }
    met = found["pong_ms"]["median"] <= TARGET_MS
    print(json.dumps({**found, "load": os.getloadavg()[0], "target_ms": TARGET_MS, "met": met}, indent=2))
    return 0 if met else 1


def start(folder: str) -> tuple[float, float, float, float]:
    """One server: when a connection was taken, INFO and PONG were read, and processor time until then."""
    port = _free_port()
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
    environment.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # an installed package is compiled, a checkout perhaps not
    began = time.monotonic()
    process = subprocess.Popen(
        [COMMAND, "-a", "127.0.0.1", "-p", str(port)], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        with _connect(port) as client:
            taken = time.monotonic()
            client.recv(4096)
            told = time.monotonic()
            client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
            client.recv(4096)
            answered = time.monotonic()
            cpu_ns = sum(
                int((task / "schedstat").read_text().split()[0])
                for task in Path(f"/proc/{process.pid}/task").iterdir()
            )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return (taken - began) * 1e3, (told - began) * 1e3, (answered - began) * 1e3, cpu_ns / 1e6


def _connect(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.001)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
