"""Make the environment: find or create a virtual environment and install into it. Standard library only.

Torch is installed first and exactly, because a range would bring the CUDA build (docs/decisions/0004). A torch that is
already importable in the environment is kept. Extras come under the same pin, so that what they ask for can fail to be
installed but never replaces torch, and what has a build without CUDA is taken in that one. Mirrors and wheel folders
are pip's business: PIP_INDEX_URL, PIP_FIND_LINKS and PIP_NO_INDEX are honoured.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

OLDEST = (3, 11)
ROOT = pathlib.Path(__file__).resolve().parent.parent

WITHOUT_CUDA = {"xgboost": "xgboost-cpu"}
"""By the package an extra names, its project's own build for processors alone: the other brings NCCL along."""


def main() -> int:
    """Make the environment; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--venv", default=".venv", help="where to make it (default: %(default)s)")
    options.add_argument("--torch", choices=("cpu", "cuda"), default=os.environ.get("TORCH", "cpu"))
    options.add_argument("--extras", metavar="NAME,...", default="", help="add these to an environment that is made")
    chosen = options.parse_args()
    if sys.version_info < OLDEST:
        return fail(
            f"couldn't install: Python {sys.version.split()[0]} is older than {OLDEST[0]}.{OLDEST[1]}",
            "run `make PYTHON=python3.11 install`, or install a newer Python first",
        )
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return fail("couldn't install: this Python has no venv support", f"apt install python{version}-venv")
    folder = pathlib.Path(chosen.venv)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if chosen.extras:
        return add_extras(python, pip, chosen.extras.split(","), chosen.torch)
    if not python.exists():
        print(f"Making an environment in {folder} (about 1 GB, two to four minutes) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    has_torch = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0
    if not has_torch:
        print("Installing PyTorch ...", flush=True)
        if subprocess.run([*pip, "-r", str(ROOT / "requirements" / f"{chosen.torch}.txt")], check=False).returncode:
            return fail("couldn't install PyTorch", "check the network, or point PIP_INDEX_URL at your mirror")
    print("Installing swarm-node and its tools ...", flush=True)
    if subprocess.run([*pip, "-e", f"{ROOT}[torch,dev]"], check=False).returncode:
        return fail("couldn't install the dependencies", "check the network, or point PIP_INDEX_URL at your mirror")
    return 0


def add_extras(python: pathlib.Path, pip: Sequence[str], names: Sequence[str], build: str) -> int:
    """Install what extras of pyproject.toml name; return the exit code."""
    if not python.exists():
        return fail(f"couldn't install {', '.join(names)}: there is no {python}", "run make install first")
    if odd := [name for name in names if name not in declared_extras()]:
        return fail(f"couldn't install {odd[0]!r}: there is no such extra", f"choose of {', '.join(declared_extras())}")
    before = torch_version(python)
    print(f"Installing {', '.join(names)} ...", flush=True)
    if subprocess.run([*pip, *extras_arguments(names, build)], check=False).returncode:
        return fail(
            f"couldn't install {', '.join(names)}", "read above what pip could not find, or could not reconcile"
        )
    if (after := torch_version(python)) != before:
        return fail(
            f"installing {', '.join(names)} has replaced torch {before} by {after}", "remove .venv, and report it"
        )
    return 0


def extras_arguments(names: Sequence[str], build: str) -> list[str]:
    """Return what pip is told to install for these extras, torch being held at the pinned version."""
    extras = declared_extras()
    wanted = ["-c", str(ROOT / "requirements" / f"{build}.txt")]
    for requirement in sorted({requirement for name in names for requirement in extras[name]}):
        package = re.split(r"[^\w.-]", requirement)[0]
        lean = WITHOUT_CUDA.get(package, package) if build == "cpu" else package
        wanted.append(lean + requirement.removeprefix(package))
    return wanted


def declared_extras() -> dict[str, list[str]]:
    """Return what each extra of pyproject.toml asks for."""
    import tomllib

    found = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras: dict[str, list[str]] = found["project"]["optional-dependencies"]
    return extras


def torch_version(python: pathlib.Path) -> str:
    """Return which torch an environment has, with its build: "2.13.0+cpu". Empty if none."""
    asked = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=False).stdout.strip()


def fail(message: str, hint: str) -> int:
    """Say what went wrong and what to do."""
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
