"""Run the demo: build its parts, show the run, print the verdict."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from rich.console import Console
from rich.live import Live

from node.demo.checker import check
from node.demo.cluster import Cluster
from node.demo.history import History
from node.demo.load import Load
from node.demo.picture import picture, plain, screen_lines
from node.demo.report import lines, report
from node.demo.scenario import Script
from node.demo.show import Line, Show
from node.demo.watch import watch
from node.errors import NodeError

FRAMES_A_SECOND: Final = 10
PROGRESS_S: Final = 5.0
LOOK_S: Final = 0.02
SVG_WIDTH: Final = 120
SVG_AFTER_S: Final = 1.1
"""The picture is saved this long after the last kill, while the killed node is still down."""

FONT_FACE: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""The web font of the picture, which is removed. Any monospaced font will do."""

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    kills: int = 5
    seed: int = 0
    tty: bool = True
    json: str = ""
    """Destination of the report: a file, ``-`` for standard output, or empty."""
    svg: str = ""
    """File of a picture of the screen, or empty."""
    keep: bool = False
    """Keep the nodes' files and logs, and print where they are."""
    patient: bool = False
    """Show durations, but do not check them."""


def run(options: Options) -> int:
    """Run the demo. Return 0 if all guarantees held, 1 if not, 130 if it was interrupted."""
    folder = Path(tempfile.mkdtemp(prefix="stanchion-demo-"))
    found: dict[str, Any] | None = None
    try:
        found = trio.run(_run, options, folder)
    finally:
        held = found is None or found["held"]
        if options.keep or not held:
            print(f"configuration, data and logs of the nodes: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        return INTERRUPTED
    if options.json:
        _write(options.json, json.dumps(found, indent=2) + "\n")
    if options.json != "-":
        print("\n".join(lines(found)))
    return 0 if found["held"] else 1


def _write(where: str, text: str) -> None:
    if where == "-":
        sys.stdout.write(text)
    else:
        Path(where).write_text(text, encoding="utf-8")


async def _run(options: Options, folder: Path) -> dict[str, Any] | None:
    """Return the report, or None if the run was interrupted."""
    demo = _Demo(options, folder)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as outer:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    demo.interrupted = True
                    outer.cancel_scope.cancel()

            outer.start_soon(stop_on_signal)
            await demo.run()
            outer.cancel_scope.cancel()
    return None if demo.interrupted else demo.found


class _Demo:
    """The parts of one run."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.interrupted = False
        self.found: dict[str, Any] | None = None
        self.held_up_s = 0.0
        """The longest delay of a task of the demo itself: a measure of how busy the machine was."""
        self.console = Console()
        self.show = Show(trio.current_time(), options.seed)
        self.history = History()

    async def run(self) -> None:
        """Run everything. When this returns, no node process is left."""
        async with trio.open_nursery() as logs:
            cluster = Cluster(self.folder, logs)
            rng = random.Random(self.options.seed)
            servers = {name: node.client for name, node in cluster.nodes.items()}
            load = Load(servers, cluster.id, self.history, self._redelivered, rng)
            script = Script(
                cluster,
                load,
                self.history,
                self.show,
                rng=rng,
                kills=self.options.kills,
                on_line=self._notify,
            )
            cluster.on_role, cluster.on_ready = script.role_changed, script.leader_ready
            try:
                failure = await self._play(cluster, load, script)
                self._check(script, failure)
                await cluster.stop()
            finally:
                cluster.kill_all()
            logs.cancel_scope.cancel()

    async def _play(self, cluster: Cluster, load: Load, script: Script) -> str:
        """Run the script and show it; return why it did not finish, or an empty text."""
        failure = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, cluster, load, self.show)
            nursery.start_soon(self._watch_machine)
            nursery.start_soon(self._screen if self.options.tty else self._progress)
            if self.options.svg:
                nursery.start_soon(self._take_picture, script)
            try:
                await script.run(nursery)
            except NodeError as error:
                failure = str(error)
            nursery.cancel_scope.cancel()
        self.last_picture()
        return failure

    def _check(self, script: Script, failure: str) -> None:
        now = trio.current_time()
        self.found = report(
            self.history,
            check(self.history, now),
            seed=self.options.seed,
            seconds=now - self.show.started_s,
            load_s=(script.load_began_s, script.load_ended_s or now),
            end_s=now,
            held_up_s=self.held_up_s,
            failure=failure,
            patient=self.options.patient,
        )

    async def _watch_machine(self) -> None:
        while True:
            due_s = trio.current_time() + LOOK_S
            await trio.sleep_until(due_s)
            self.held_up_s = max(self.held_up_s, trio.current_time() - due_s)

    # --- showing ----------------------------------------------------------------------------------

    def _redelivered(self, reason: str, subscriber: str, cursor: str, seq: int) -> None:
        self.show.redelivered(trio.current_time(), reason, subscriber, cursor, seq)

    def _notify(self, line: Line) -> None:
        if not self.options.tty:
            print(plain(line, self.show.started_s), flush=True, file=self._out)

    @property
    def _out(self) -> Any:
        return sys.stderr if self.options.json == "-" else sys.stdout

    async def _screen(self) -> None:
        with Live(console=self.console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(self._picture(), refresh=True)
                await trio.sleep(1 / FRAMES_A_SECOND)

    def last_picture(self) -> None:
        """Print the last picture on the normal screen: the alternate screen disappears."""
        if self.options.tty:
            self.console.print(self._picture())

    def _picture(self) -> Any:
        lines = screen_lines(self.console.height)
        return picture(self.show, trio.current_time(), lines=lines, width=self.console.width)

    async def _progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_S)
            stored, delivered, acked = self.show.rates
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.show.reasons.items()))
            text = f"{stored:.0f} published/s, {delivered:.0f} delivered/s, {acked:.0f} acked/s"
            line = Line(trio.current_time(), "phase", f"{text}; redelivered: {reasons or 'nothing'}")
            self._notify(line)

    async def _take_picture(self, script: Script) -> None:
        await script.last_kill.wait()
        await trio.sleep(SVG_AFTER_S)
        console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
        console.print(picture(self.show, trio.current_time()))
        svg = console.export_svg(title="stanchion demo", unique_id="demo")
        await trio.Path(self.options.svg).write_text(FONT_FACE.sub("", svg), encoding="utf-8")
