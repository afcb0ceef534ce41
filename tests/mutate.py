"""``make mutate``: change one line of the code at a time, and check whether a test fails.

Run as ``python tests/mutate.py [--sample N] [--seed N] [PATH …]``. A *mutant* is the code with one small
change: the other bound of a comparison, ``and`` for ``or``, a negated condition, a number increased by one,
a dropped statement, ``None`` returned. Each mutant runs in a copy of the tree against the tests of its
module: ``node/server/x.py`` has ``tests/unit/server/test_x.py`` and ``test_x_*.py``, or those that
``TESTED_ELSEWHERE`` of test_layout names. With ``--wide``, mutants that survive these tests run against all
property and unit tests of their package, as mutants of a module without its own tests always do. A mutant
that no test kills is a *survivor*: either a test is missing, or the change makes no difference. Simulator
and end-to-end tests are not used: they are too slow to run for each mutant.

Not changed: texts, log lines, assertions, annotations, values of module constants (another bound is another
setting, not a fault), and protocols.

mutmut and cosmic-ray drop no statements, but most faults that the tests of this project missed were missing
statements. Neither runs different tests for each module, so a mutant would take minutes.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest
from unit.test_layout import TESTED_ELSEWHERE

ROOT = Path(__file__).parents[1]
PACKAGES = ("node/core", "node/raft", "node/server")
COPIED = ("node", "tests", "docs", "bench", "pyproject.toml", "README.md")
IMPORTED_ONCE = (
    "trio",
    "hypothesis",
    "hypothesis.strategies",
    "msgpack",
    "google_crc32c",
    "bcrypt",
    "cryptography.x509",
    "cryptography.hazmat.primitives.asymmetric.ec",
    "lmdb",
    "google.protobuf.message",
    "yaml",
    "pysyncobj",
    "h11",
    "starlette.applications",
)
"""Libraries that are imported once for all mutants. None of them imports this project."""

TESTS_TAKE_S = 30.0
"""Seconds added to ten times the usual duration of the tests, as the time limit of a mutant."""

NEVER_CHANGED = ("log", "logging", "_log", "warnings")
"""Calls of methods of these only produce output."""

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "//",
    ast.FloorDiv: "*",
    ast.Div: "*",
    ast.Mod: "//",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


_FATES = ("killed", "property", "package", "timeout", "survived")


class Mutant(NamedTuple):
    """One change: ``text`` replaces the bytes from ``start`` to ``end`` of a file."""

    path: str
    line: int
    start: int
    end: int
    text: str
    change: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


class _Finder(ast.NodeVisitor):
    """Finds all mutants of one module."""

    def __init__(self, path: str, source: bytes) -> None:
        self._path, self._source = path, source
        lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self.found: list[Mutant] = []
        self._in_function = 0

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._starts[node.lineno - 1] + node.col_offset
        return start, self._starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _replace(self, node: ast.expr | ast.stmt, text: str, change: str) -> None:
        start, end = self._span(node)
        self.found.append(Mutant(self._path, node.lineno, start, end, text, change))

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str, change: str) -> None:
        """Replace the operator between two operands, with or without parentheses."""
        start, end = self._span(left)[1], self._span(right)[0]
        between = self._source[start:end].decode()
        if len(re.findall(re.escape(old), between)) != 1:
            return  # a comment contains the operator too
        text = between.replace(old, new)
        line = self._source[:start].count(b"\n") + 1
        self.found.append(Mutant(self._path, line, start, end, text, change))

    # --- code that is never changed ---------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        if not any(ast.unparse(base) in {"Protocol", "TypedDict"} for base in node.bases):
            for statement in node.body:
                self.visit(statement)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if node.name in {"__repr__", "__str__"}:
            return
        self._in_function += 1
        for statement in node.body:
            self.visit(statement)
        self._in_function -= 1

    visit_FunctionDef = _visit_function  # noqa: N815 (ast.NodeVisitor names them)
    visit_AsyncFunctionDef = _visit_function  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and self._in_function:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    visit_JoinedStr = visit_Assert  # noqa: N815

    def visit_Raise(self, node: ast.Raise) -> None:
        if self._in_function:
            self._replace(node, "pass", "statement dropped")

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in {"cast", "TypeVar", "NewType", "field", "isinstance"} or _is_output(name):
            return
        if name in SWAPPED:
            self._replace(node.func, SWAPPED[name], f"{name} → {SWAPPED[name]}")
        self.generic_visit(node)

    # --- code that is changed ---------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            old = _symbol(operator)
            new = COMPARISONS[type(operator)]
            self._between(left, right, old, new, f"{old} → {new}")
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new, f"{old} → {new}")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._replace(node, f"({self._text(node.operand)})", "not dropped")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        texts = (ast.JoinedStr, ast.Constant)
        is_text = any(
            isinstance(side, texts) and not isinstance(getattr(side, "value", ""), int | float)
            for side in (node.left, node.right)
        )
        if type(node.op) in ARITHMETIC and not is_text and self._in_function:
            old, new = _symbol(node.op), ARITHMETIC[type(node.op)]
            self._between(node.left, node.right, old, new, f"{old} → {new}")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not self._in_function:
            return
        if node.value is True or node.value is False:
            self._replace(node, str(not node.value), f"{node.value} → {not node.value}")
        elif type(node.value) is int:
            self._replace(node, str(node.value + 1), f"{node.value} → {node.value + 1}")

    def _negate(self, node: ast.If | ast.While | ast.IfExp) -> None:
        self._replace(node.test, f"not ({self._text(node.test)})", "condition negated")
        self.generic_visit(node)

    visit_If = _negate  # noqa: N815
    visit_While = _negate  # noqa: N815
    visit_IfExp = _negate  # noqa: N815

    def visit_Expr(self, node: ast.Expr) -> None:
        value = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(value, ast.Call) or _is_output(ast.unparse(value.func)):
            return
        if self._in_function:
            self._replace(node, "pass", "statement dropped")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        places = (ast.Attribute, ast.Subscript)
        if self._in_function and all(isinstance(target, places) for target in node.targets):
            self._replace(node, "pass", "statement dropped")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if self._in_function:
            self._replace(node, "pass", "statement dropped")
        self.visit(node.value)

    def visit_Delete(self, node: ast.Delete) -> None:
        self._replace(node, "pass", "statement dropped")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._replace(node, "pass", "statement dropped")
        elif not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace(node, "return None", "None returned")
            self.visit(node.value)

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "pass", "continue dropped")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "pass", "break dropped")


def _is_output(name: str) -> bool:
    return bool(set(name.split(".")[:-1]) & set(NEVER_CHANGED))


def _symbol(operator: ast.cmpop | ast.operator) -> str:
    """Return the source text of an operator."""
    if isinstance(operator, ast.cmpop):
        return ast.unparse(ast.Compare(ast.Name("a"), [operator], [ast.Name("b")]))[2:-2]
    return ast.unparse(ast.BinOp(ast.Name("a"), operator, ast.Name("b")))[2:-2]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Return all mutants of one module, in order."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(found for found in finder.found if found.apply(source) != source)


def own_tests(path: str, root: Path) -> list[str]:
    """Return the files with the unit tests of one module; none if it has none."""
    module = path.removeprefix("node/")
    folder, stem = Path(module).parent, Path(module).stem
    unit = root / "tests" / "unit"
    own = [unit / folder / f"test_{stem}.py", *(unit / folder).glob(f"test_{stem}_*.py")]
    for word in re.findall(r"[\w/]*test_\w+", TESTED_ELSEWHERE.get(module, "")):
        named = [root / f"{word}.py"] if "/" in word else unit.rglob(f"{word}.py")
        own += [file for file in named if "e2e" not in file.parts]
    return sorted({str(file.relative_to(root)) for file in own if file.exists()})


def package_tests(path: str, kind: str) -> list[str]:
    """Return the folder with all ``unit`` or ``property`` tests of a module's package, if there is one."""
    folder = f"tests/{kind}/{Path(path).parts[1]}"
    return [folder] if (ROOT / folder).exists() else []


@dataclass(slots=True)
class Copy:
    """The copy of the tree in which mutants run."""

    root: Path

    def __post_init__(self) -> None:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "e2e")
                shutil.copytree(source, self.root / name, ignore=ignored)
            else:
                shutil.copy2(source, self.root / name)
        for name in IMPORTED_ONCE:
            importlib.import_module(name)
        gc.freeze()

    def test(self, tests: list[str], *, timeout_s: float, is_mutated: bool) -> int | None:
        """Run tests until one fails. Returns pytest's exit status, or None if they took too long."""
        process = os.fork()  # of a process with the slow imports done: a start costs a quarter
        if process == 0:
            self._run_tests(tests, is_mutated=is_mutated)
        descriptor = os.pidfd_open(process)
        try:
            ended, _, _ = select.select([descriptor], [], [], timeout_s)
            if not ended:
                os.killpg(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            return status if ended else None
        finally:
            os.close(descriptor)

    def _run_tests(self, tests: list[str], *, is_mutated: bool) -> NoReturn:
        """Run tests in this process, which was forked for them."""
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            os.chdir(self.root)
            sys.path[0] = str(self.root)
            for name in [name for name in sys.modules if name.split(".")[0] in {"unit", "node", "tests"}]:
                del sys.modules[name]
            os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(self.root / ".hypothesis")
            # Python would use the compiled file of one mutant for the next: same size, same second.
            sys.dont_write_bytecode = is_mutated
            words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
            words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of modules imported before
            status = int(pytest.main([*words, *tests]))
        except BaseException:
            status = 1
        os._exit(status)

    def usual_s(self, tests: list[str]) -> float:
        """Run tests on the unchanged code. Returns how long they take.

        Raises:
            SystemExit: a test fails, so that its result for a mutant would mean nothing.
        """
        begin = time.monotonic()
        if self.test(tests, timeout_s=900, is_mutated=False) != 0:
            raise SystemExit(f"these tests fail or take 15 minutes without any change: {' '.join(tests)}")
        return time.monotonic() - begin


class Runner:
    """Runs mutants one after the other."""

    def __init__(self, copy: Copy, *, is_wide: bool) -> None:
        self._copy = copy
        self._is_wide = is_wide
        self._usual_s: dict[tuple[str, ...], float] = {}

    def fate(self, mutant: Mutant) -> str:
        """Return which tests killed a mutant (see `_FATES`), ``timeout`` or ``survived``."""
        place = self._copy.root / mutant.path
        source = place.read_bytes()
        stat = place.stat()
        selections = [(name, tests) for name, tests in self._selections(mutant.path) if tests]
        limits = [self._limit_s(tests) for _, tests in selections]
        place.write_bytes(mutant.apply(source))
        try:
            for (name, tests), limit_s in zip(selections, limits, strict=True):
                status = self._copy.test(tests, timeout_s=limit_s, is_mutated=True)
                if status is None:
                    return "timeout"
                if status != 0:
                    return name
            return "survived"
        finally:
            place.write_bytes(source)
            os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # its compiled file is valid again

    def _selections(self, path: str) -> list[tuple[str, list[str]]]:
        own = [("killed", own_tests(path, self._copy.root))]
        wide = [("property", package_tests(path, "property")), ("package", package_tests(path, "unit"))]
        return own + wide if self._is_wide or not own[0][1] else own

    def _limit_s(self, tests: list[str]) -> float:
        key = tuple(tests)
        if key not in self._usual_s:
            self._usual_s[key] = self._copy.usual_s(tests)
        return 10 * self._usual_s[key] + TESTS_TAKE_S


def diff(mutant: Mutant, source: bytes) -> str:
    """Return the change of a mutant as a diff without context."""
    before, after = source.decode().splitlines(), mutant.apply(source).decode().splitlines()
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]
    return "\n".join(f"    {line}" for line in lines)


def modules(paths: list[str]) -> Iterator[str]:
    """Yield the modules under some paths.

    Raises:
        SystemExit: a path doesn't exist.
    """
    for path in paths:
        place = ROOT / path
        if not place.exists():
            raise SystemExit(
                f"{path} doesn't exist in {ROOT}: name modules or folders like node/server/turns.py"
            )
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        yield from (str(file.relative_to(ROOT)) for file in files)


def main() -> int:
    """Draw mutants, run their tests, and report the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("paths", nargs="*", default=PACKAGES, help="modules or folders (core, raft, server)")
    parser.add_argument("--sample", type=int, default=50, help="number of mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1, help="seed that chooses the mutants")
    parser.add_argument("--line", type=int, help="only mutants of this line")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    parser.add_argument("--wide", action="store_true", help="run survivors against all tests of the package")
    options = parser.parse_args()
    sources = {path: (ROOT / path).read_bytes() for path in modules(options.paths)}
    found = [mutant for path, source in sources.items() for mutant in mutants(path, source)]
    if options.line:
        found = [mutant for mutant in found if mutant.line == options.line]
    drawn = found
    if 0 < options.sample < len(found):
        drawn = random.Random(options.seed).sample(found, options.sample)
    print(f"{len(drawn)} of {len(found)} mutants of {len(sources)} modules, seed {options.seed}", flush=True)
    if options.list:
        for mutant in drawn:
            print(f"{mutant.path}:{mutant.line}: {mutant.change}\n{diff(mutant, sources[mutant.path])}")
        return 0
    fates: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory(prefix="mutate-") as place:
        runner = Runner(Copy(Path(place)), is_wide=options.wide)
        for number, mutant in enumerate(drawn, 1):
            fate = runner.fate(mutant)
            fates[mutant.path][fate] += 1
            if fate != "killed":
                text = f"{fate:9}{mutant.path}:{mutant.line}: {mutant.change}"
                print(f"[{number}/{len(drawn)}] {text}\n{diff(mutant, sources[mutant.path])}", flush=True)
    _report(fates)
    return 0


def _report(fates: dict[str, Counter[str]]) -> None:
    print(f"\n{'module':44}{'tried':>8}" + "".join(f"{name:>10}" for name in _FATES))
    total: Counter[str] = sum(fates.values(), Counter())
    for path, counts in [*sorted(fates.items()), ("all", total)]:
        print(f"{path:44}{counts.total():8}" + "".join(f"{counts[name]:10}" for name in _FATES))
    print(
        "killed: by the module's own tests; property, package: by such tests or all unit tests of its package"
    )


if __name__ == "__main__":
    sys.exit(main())
