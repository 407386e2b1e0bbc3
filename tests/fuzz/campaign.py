"""Read bytes that nobody has thought of, guided by which code they reach, and keep the few that reach more.

    python -m tests.fuzz.campaign --time 60                 every row for 60 seconds, two at a time
    python -m tests.fuzz.campaign --time 600 --only frame,audit --workers 4
    python -m tests.fuzz.campaign --replay machine FILE     read one input again, within its bounds

What is found is written under `--found`, and the command that reads it again is printed. What reaches code that the
corpus did not is added to it, as few and as short as cover it, `CORPUS_ROW_BYTES_MAX` for each row.

Every row has a process of its own: libFuzzer, which atheris is made of, ends with one, and so does what it finds.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tests.fuzz.parsers import Parser  # in its own process, and only there instrumented

Step: TypeAlias = tuple[CodeType, int, int]

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
CORPUS_ROW_BYTES_MAX = 20 << 10
INPUT_BYTES_MAX = 1 << 16
RSS_MB_MAX = 2_048
SECONDS_MAX = 10
"""One input that takes longer than this, with every function counted, hangs."""

MISSING = 2
"""Exit code where atheris is not installed, as of a command that was used wrongly."""

INSTRUMENTED = ("swarm", "gossip", "topologies", "node", "tomllib", "tarfile", "networkx.readwrite.graphml", "zipfile")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for, and return its exit code: 1 when something was found."""
    options = _options().parse_args(arguments)
    if options.replay:
        return _replay(options.replay[0], Path(options.replay[1]))
    if options.keep:
        _keep(options.keep[0], Path(options.keep[1]))
        return 0
    try:
        import atheris
    except ImportError:
        print(
            "couldn't fuzz: atheris is not installed; pip install -e '.[fuzz]' (Linux, Python 3.11 to 3.13)",
            file=sys.stderr,
        )
        return MISSING
    if options.row:
        return _fuzz(atheris, options.row, options.libfuzzer)
    return _all(options)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=int, default=60, help="seconds for each row")
    parser.add_argument("--workers", type=int, default=2, help="rows at a time")
    parser.add_argument("--only", default="", help="rows, with commas between")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder for what is found")
    parser.add_argument("--replay", nargs=2, metavar=("ROW", "FILE"), help="read one input again")
    parser.add_argument("--keep", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("libfuzzer", nargs="*", help=argparse.SUPPRESS)
    return parser


def _replay(row: str, path: Path) -> int:
    from tests.fuzz import guard

    refused = guard.watched(guard.row(row), path.read_bytes())
    print(f"{row}: {f'refused ({refused})' if refused else 'read'}")
    return 0


# --- one row, in a process of its own -----------------------------------------------------------------------------


def _fuzz(atheris: object, row: str, options: Sequence[str]) -> int:
    """Hand one row to libFuzzer. It does not return."""
    with atheris.instrument_imports(include=[*INSTRUMENTED]):  # type: ignore[attr-defined]
        from tests.fuzz import guard
        from tests.fuzz.mutate import mutated
    parser = guard.row(row)
    seeds = parser.seeds()

    def one(data: bytes) -> None:
        guard.watched(parser, data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.4:
            return bytes(atheris.Mutate(data, most))  # type: ignore[attr-defined]
        return mutated(bytes(data), rng, seeds, parser.shape, parser.skip)[:most]

    atheris.Setup(["fuzz", *options], one, custom_mutator=mutate)  # type: ignore[attr-defined]
    atheris.Fuzz()  # type: ignore[attr-defined]
    return 0


# --- all rows -----------------------------------------------------------------------------------------------------


def _all(options: argparse.Namespace) -> int:
    from tests.fuzz.parsers import PARSERS

    rows = options.only.split(",") if options.only else [*PARSERS]
    if strangers := {*rows} - {*PARSERS}:
        print(f"couldn't fuzz {min(strangers)!r}: the rows are {', '.join(PARSERS)}", file=sys.stderr)
        return MISSING
    options.found.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.workers) as pool:
        bad = sum(pool.map(lambda row: _row(row, PARSERS[row].seeds(), options.time, options.found), rows))
    print(f"{len(rows)} rows, {options.time} s each: {bad or 'nothing'} found")
    return 1 if bad else 0


def _row(row: str, seeds: Sequence[bytes], seconds: int, found: Path) -> bool:
    """Fuzz one row, renew its corpus, and say how it went. Returns whether something was found."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for number, seed in enumerate(seeds):
            (work / f"seed-{number}").write_bytes(seed)
        known = {path.name for path in found.glob(f"{row}-*")}
        limits = [f"-max_len={INPUT_BYTES_MAX}", f"-timeout={SECONDS_MAX}", f"-rss_limit_mb={RSS_MB_MAX}"]
        prefix = f"-artifact_prefix={found.resolve()}/{row}-"
        corpus = [str(place) for place in (work, CORPUS / row) if place.is_dir()]
        ended = _child(row, [*limits, prefix, f"-max_total_time={seconds}", "-print_final_stats=1", *corpus])
        new = sorted(path for path in found.glob(f"{row}-*") if path.name not in known)
        text = ended.stderr.decode(errors="replace")
        runs = next((line.split()[-1] for line in text.splitlines() if "number_of_executed_units" in line), "0")
        if not new and ended.returncode:
            print(f"{row}: ended with {ended.returncode}\n{text[-2_000:]}", flush=True)
            return True
        for path in new:
            cause = [
                line
                for line in (ended.stdout.decode(errors="replace") + text).splitlines()
                if "Error" in line or "Excess" in line
            ]
            print(f"{row}: {cause[0][:200] if cause else 'it hangs, or takes too much memory'}")
            print(f"    {Path(sys.executable).name} -m tests.fuzz.campaign --replay {row} {path}", flush=True)
        if not new:
            command = [sys.executable, "-m", "tests.fuzz.campaign", "--keep", row, str(work)]
            subprocess.run(command, check=True)
            print(f"{row}: {runs} inputs, nothing found", flush=True)
        return bool(new)


def _child(row: str, options: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.fuzz.campaign", "--row", row, "--", *options]
    return subprocess.run(command, capture_output=True, check=False)


def _keep(row: str, work: Path) -> None:
    """Renew a row's corpus: the shortest inputs that reach a step from line to line which nothing before them did.

    Examples come first and are not kept: the suite reads them anyway.
    """
    from tests.fuzz.parsers import PARSERS

    parser, folder, room = PARSERS[row], CORPUS / row, CORPUS_ROW_BYTES_MAX
    seeds = [*parser.seeds()]
    candidates = sorted(
        {path.read_bytes() for place in (work, folder) if place.is_dir() for path in place.iterdir()}, key=_rank
    )
    reached: set[Step] = set()
    kept: list[bytes] = []
    for data in [*seeds, *(data for data in candidates if data not in seeds)]:
        steps = _steps(parser, data)
        if data not in seeds and steps - reached and len(data) <= room:
            kept.append(data)
            room -= len(data)
        reached |= steps
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for data in kept:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _rank(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def _steps(parser: Parser, data: bytes) -> set[Step]:
    """Return the steps from one line of the product to another that reading takes."""
    from tests.fuzz.guard import read

    found: set[Step] = set()

    def enter(frame: FrameType, event: str, argument: object) -> object:
        code = frame.f_code
        if not any(f"/{package}/" in code.co_filename for package in INSTRUMENTED[:4]) or "/tests/" in code.co_filename:
            return None
        last = code.co_firstlineno

        def step(frame: FrameType, event: str, argument: object) -> object:
            nonlocal last
            if event == "line":
                found.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)  # type: ignore[arg-type]  # it returns itself, or another, or None
    try:
        read(parser, data)
    finally:
        sys.settrace(None)
    return found


if __name__ == "__main__":
    sys.exit(main())
