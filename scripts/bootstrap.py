"""Make the environment: find or create a virtual environment and install into it. Standard library only.

Torch is installed first and exactly, because a range would bring the CUDA build (docs/decisions/0004). A torch that is
already importable in the environment is kept. Mirrors and wheel folders are pip's business: PIP_INDEX_URL,
PIP_FIND_LINKS and PIP_NO_INDEX are honoured.
"""

import argparse
import importlib.util
import os
import pathlib
import subprocess
import sys

OLDEST = (3, 11)
ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> int:
    """Make the environment; return the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--venv", default=".venv", help="where to make it (default: %(default)s)")
    options.add_argument("--torch", choices=("cpu", "cuda"), default=os.environ.get("TORCH", "cpu"))
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
    if not python.exists():
        print(f"Making an environment in {folder} (about 1 GB, two to four minutes) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    has_torch = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False).returncode == 0
    if not has_torch:
        print("Installing PyTorch ...", flush=True)
        if subprocess.run([*pip, "-r", str(ROOT / "requirements" / f"{chosen.torch}.txt")], check=False).returncode:
            return fail("couldn't install PyTorch", "check the network, or point PIP_INDEX_URL at your mirror")
    print("Installing swarm-node and its tools ...", flush=True)
    if subprocess.run([*pip, "-e", f"{ROOT}[torch,dev]"], check=False).returncode:
        return fail("couldn't install the dependencies", "check the network, or point PIP_INDEX_URL at your mirror")
    return 0


def fail(message: str, hint: str) -> int:
    """Say what went wrong and what to do."""
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
