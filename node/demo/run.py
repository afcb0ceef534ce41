"""Runs the demo: puts its parts together, shows it, and ends it with a verdict."""

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

from node.demo.checker import judge
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
"""A picture is saved so long after the last kill, while the victim is still down."""

FONT_FACE: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Where a picture would fetch its font from. Any monospaced one will do."""

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    kills: int = 5
    seed: int = 0
    tty: bool = True
    json: str = ""
    """Where the report goes: a file, ``-`` for standard output, or nowhere."""
    svg: str = ""
    """Where a picture of the screen goes."""
    keep: bool = False
    """Leave the nodes' files and logs, and say where."""
    patient: bool = False
    """Show how long things took, but do not judge it."""


def run(options: Options) -> int:
    """Run it; 0 if every promise held, 1 if not, 130 if it was interrupted."""
    folder = Path(tempfile.mkdtemp(prefix="stanchion-demo-"))
    found: dict[str, Any] | None = None
    try:
        found = trio.run(_run, options, folder)
    finally:
        held = found is None or found["held"]
        if options.keep or not held:
            print(f"the nodes' configuration, data and logs are in {folder}", file=sys.stderr)
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
    """The report, or None if it was interrupted."""
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
    """All parts of one run."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.interrupted = False
        self.found: dict[str, Any] | None = None
        self.held_up_s = 0.0
        """The longest time by which a task of ours came to run too late: how busy the machine was."""
        self.console = Console()
        self.show = Show(trio.current_time(), options.seed)
        self.history = History()

    async def run(self) -> None:
        """Everything, and then nothing of ours runs any more."""
        async with trio.open_nursery() as logs:
            cluster = Cluster(self.folder, logs)
            chance = random.Random(self.options.seed)
            servers = {name: node.client for name, node in cluster.nodes.items()}
            load = Load(servers, cluster.id, self.history, self._redelivered, chance)
            story = Script(
                cluster,
                load,
                self.history,
                self.show,
                chance=chance,
                kills=self.options.kills,
                tell=self._notify,
            )
            cluster.on_role, cluster.on_ready = story.role_changed, story.leader_ready
            try:
                failure = await self._play(cluster, load, story)
                self._judge(story, failure)
                await cluster.stop()
            finally:
                cluster.kill_all()
            logs.cancel_scope.cancel()

    async def _play(self, cluster: Cluster, load: Load, story: Script) -> str:
        """The story, on the screen; why it did not come to its end, if so."""
        failure = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, cluster, load, self.show)
            nursery.start_soon(self._watch_machine)
            nursery.start_soon(self._screen if self.options.tty else self._progress)
            if self.options.svg:
                nursery.start_soon(self._take_picture, story)
            try:
                await story.run(nursery)
            except NodeError as error:
                failure = str(error)
            nursery.cancel_scope.cancel()
        self.last_picture()
        return failure

    def _judge(self, story: Script, failure: str) -> None:
        now = trio.current_time()
        self.found = report(
            self.history,
            judge(self.history, now),
            seed=self.options.seed,
            seconds=now - self.show.started_s,
            load_s=(story.load_began_s, story.load_ended_s or now),
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
        """Leave it where the terminal goes on: the other screen is gone with all that was on it."""
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

    async def _take_picture(self, story: Script) -> None:
        await story.last_kill.wait()
        await trio.sleep(SVG_AFTER_S)
        console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), force_terminal=True)
        console.print(picture(self.show, trio.current_time()))
        svg = console.export_svg(title="stanchion demo", unique_id="demo")
        await trio.Path(self.options.svg).write_text(FONT_FACE.sub("", svg), encoding="utf-8")
