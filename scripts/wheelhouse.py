"""Gather all that a site without internet installs, in one file: `make wheelhouse`.

::

    swarm-node-0.1.0-cp311-linux_x86_64.tar      and beside it .tar.sha256, to be sent another way
        INSTALL             two lines
        requirements.txt    every wheel, pinned to its version and its SHA-256
        wheels/             this program, what it needs, PyTorch without CUDA, and chosen extras
        SHA256SUMS          of everything above

Installing believes nothing of the folder that the list does not name: pip compares each wheel with its digest before it
opens it, and `--no-index` keeps it from asking anybody else. Only wheels are taken, because a source distribution runs
code of its own, and asks for a compiler, where it is installed. They are those of the Python and the system that this
runs on; gather where both are like the site's.

It needs the extra `package`, and a network or a mirror as pip is told of one (PIP_INDEX_URL, PIP_FIND_LINKS).
"""

import argparse
import hashlib
import pathlib
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import HeaderParser

import bootstrap
import package

INSTALL = (
    "python{version} -m venv /opt/swarm\n"
    "/opt/swarm/bin/pip install --no-index --find-links wheels --require-hashes -r requirements.txt\n"
)


def main() -> int:
    """Gather; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--to", type=pathlib.Path, default=package.ROOT / "dist", help="where it goes (default: dist)")
    options.add_argument("--torch", choices=("cpu", "cuda", "none"), default="cpu", help="default: %(default)s")
    options.add_argument("--extras", metavar="NAME,...", default="", help="extras of pyproject.toml besides")
    chosen = options.parse_args()
    extras = [*(["torch"] if chosen.torch != "none" else []), *filter(None, chosen.extras.split(","))]
    try:
        made = gather(chosen.to, extras, chosen.torch)
    except package.Stop as stop:
        message, hint = stop.args
        print(f"error: {message}\nhint: {hint}", file=sys.stderr)
        return 1
    print(f"{made.with_suffix('.tar.sha256').read_text().strip()}  ({made.stat().st_size / 2**20:.0f} MiB)")
    return 0


def gather(target: pathlib.Path, extras: Sequence[str], build: str) -> pathlib.Path:
    """Return the file, made in a folder, for the extras and PyTorch's build "cpu", "cuda" or "none". Raises `Stop`."""
    if odd := [name for name in extras if name not in bootstrap.declared_extras()]:
        known = ", ".join(bootstrap.declared_extras())
        raise package.Stop(f"couldn't gather {odd[0]!r}: there is no such extra", f"choose of {known}")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name) / "wheelhouse"
        wheels = place / "wheels"
        _, own = package.build(wheels)
        next(wheels.glob("*.tar.gz")).unlink()
        download(wheels, [str(own), *wanted(extras, build)])
        (place / "requirements.txt").write_text(requirements(wheels), "utf-8")
        (place / "INSTALL").write_text(INSTALL.format(version=f"{sys.version_info[0]}.{sys.version_info[1]}"), "utf-8")
        (place / "SHA256SUMS").write_text(sums(place), "utf-8")
        system = sysconfig.get_platform().replace("-", "_")
        stem = f"swarm-node-{own.name.split('-')[1]}-cp{sys.version_info[0]}{sys.version_info[1]}-{system}"
        made = target / f"{stem}.tar"
        with tarfile.open(made, "w") as archive:
            for path in sorted(place.rglob("*")):
                archive.add(path, f"{stem}/{path.relative_to(place)}", recursive=False, filter=_nobodys)
    made.with_suffix(".tar.sha256").write_text(f"{digest(made)}  {made.name}\n", "utf-8")
    return made


def wanted(extras: Sequence[str], build: str) -> list[str]:
    """Return what pip is told to fetch besides this program: the exact PyTorch, and what the extras name."""
    if build == "none":
        return [one for name in extras for one in bootstrap.declared_extras()[name]]
    return ["-r", str(package.ROOT / "requirements" / f"{build}.txt"), *bootstrap.extras_arguments(extras, build)]


def download(wheels: pathlib.Path, words: Sequence[str]) -> None:
    """Let pip fetch what is asked for and what that needs, as wheels. Raises `Stop`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    ran = subprocess.run(
        [*pip, "--only-binary", ":all:", "--dest", str(wheels), *words], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise package.Stop(
            f"couldn't fetch {shlex.join(words[1:]) or 'what the program needs'}: {ran.stderr.strip()}",
            "check the network, point PIP_INDEX_URL at your mirror, or leave out the extra that has no wheel",
        )


def requirements(wheels: pathlib.Path) -> str:
    """Return every wheel in a folder as a line that pip holds it to. Raises `Stop` if two are of one project."""
    found: dict[str, str] = {}
    for path in sorted(wheels.glob("*.whl")):
        told = described(path)
        name = told["Name"].lower().replace("_", "-")
        if name in found:
            raise package.Stop(f"couldn't gather: there are two versions of {name}", "start with an empty folder")
        found[name] = f"{name}=={told['Version']} --hash=sha256:{digest(path)}\n"
    return "".join(found[name] for name in sorted(found))


def described(wheel: pathlib.Path) -> Mapping[str, str]:
    """Return what a wheel says of itself: its name and version are in the file, whatever the file is called."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA") and one.count("/") == 1)
        return dict(HeaderParser().parsestr(archive.read(name).decode("utf-8")).items())


def sums(place: pathlib.Path) -> str:
    """Return a line for each file in a folder, as `sha256sum -c` reads it."""
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    return "".join(f"{digest(path)}  {path.relative_to(place)}\n" for path in files)


def digest(path: pathlib.Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _nobodys(one: tarfile.TarInfo) -> tarfile.TarInfo:
    one.uid = one.gid = one.mtime = 0
    one.uname = one.gname = ""
    one.mode = 0o755 if one.isdir() else 0o644
    return one


if __name__ == "__main__":
    sys.exit(main())
