"""Build what is published into dist/: the source distribution, and from that the wheel. `make package`.

**The same commit makes the same bytes.** Nothing is built in the checkout, where files may lie that nobody committed
and what an earlier build has left: the tracked files are copied out, the manual pages made beside them, and the build
sees those alone. Times are SOURCE_DATE_EPOCH, or the commit's, and the umask is the same for everybody. The archive of
the sources, in which setuptools leaves the clock and the user of whoever builds, is written again without either. The
wheel is built from that archive, so there is no wheel that cannot be made again from published sources.

It needs `build` and setuptools 77 (the extra `package`), and no network: the build is not isolated.
"""

import argparse
import gzip
import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Stop(Exception):
    """What ends it: the sentence, and what to do."""


def main() -> int:
    """Build; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--to", type=pathlib.Path, default=ROOT / "dist", help="where they go (default: dist)")
    try:
        for path in build(options.parse_args().to):
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}")
    except Stop as stop:
        message, hint = stop.args
        print(f"error: {message}\nhint: {hint}", file=sys.stderr)
        return 1
    return 0


def build(target: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Build both into a folder, and return (source distribution, wheel). Raises `Stop`."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct").decode().strip()
    environment = os.environ | {"SOURCE_DATE_EPOCH": epoch}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        source = place / "source"
        copy_tracked(source)
        _run(
            [sys.executable, str(source / "scripts" / "man_pages.py"), str(source / "share" / "man" / "man1")],
            environment,
        )
        _run([sys.executable, "-m", "build", "--no-isolation", "--sdist", "-o", str(place), str(source)], environment)
        made = next(place.glob("*.tar.gz"))
        archive = target / made.name
        archive.write_bytes(without_traces(made.read_bytes(), int(epoch)))
        with tarfile.open(archive) as sources:
            sources.extractall(place / "again", filter="data")
        again = next((place / "again").iterdir())
        _run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", str(place), str(again)], environment)
        built = next(place.glob("*.whl"))
        wheel = target / built.name
        shutil.copyfile(built, wheel)
    return archive, wheel


def copy_tracked(target: pathlib.Path) -> None:
    """Copy the files that git knows, as they are now, into a folder. Raises `Stop` where there is no git."""
    for name in filter(None, _git("ls-files", "-z").decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / name)


def without_traces(archive: bytes, epoch: int) -> bytes:
    """Return a .tar.gz with the same files, of that time and nobody's: what is in it decides every byte."""
    raw = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as before,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for one in sorted(before.getmembers(), key=lambda member: member.name):
            plain = tarfile.TarInfo(one.name)
            plain.type, plain.size, plain.mtime = one.type, one.size, epoch
            plain.mode = 0o755 if one.isdir() or one.mode & 0o100 else 0o644
            after.addfile(plain, before.extractfile(one) if one.isfile() else None)
    return raw.getvalue()


def _git(*arguments: str) -> bytes:
    ran = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    if ran.returncode:
        raise Stop(
            "couldn't build: which files belong to the program is what git knows, and here is no git repository",
            "build in a clone",
        )
    return ran.stdout


def _run(command: list[str], environment: dict[str, str]) -> None:
    ran = subprocess.run(command, env=environment, umask=0o022, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise Stop(
            f"couldn't build: {(ran.stderr or ran.stdout).strip()}",
            "pip install 'swarm-node[package]', or read the above",
        )


if __name__ == "__main__":
    sys.exit(main())
