"""A real swarm whose sites keep parts of the model: through kills and a restored backup, and searched for on all disks.

Three sites learn one line's slope together, each with an offset, a label order and a learning rate's memory of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from node.cli.main import cli
from node.data import SiteData
from node.local import LocalPeer, found, stop_all
from tests.integration.test_operations import until

ROUNDS = 6

TASK = """\
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

private = ["offset"]
optimizer_state = "keep"
fine_tune = 1


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(40))
        self.offset = nn.Parameter(torch.zeros(64))

    def forward(self):
        return self.slope.sum(), self.offset


def build_model():
    return Line()


def build_optimizer(model):
    return torch.optim.Adam(model.parameters(), lr=0.05)


def load_data(site):
    rng = np.random.default_rng(site.name.encode()[0])
    return torch.from_numpy(rng.normal(size=64).astype(np.float32)), float((site.folder / "slope.txt").read_text())


def train(model, data, run):
    gate = Path("GATE")
    while run.round > 2 and int(gate.read_text()) < run.round:
        time.sleep(0.02)
    for _ in range(4):
        run.optimizer.zero_grad()
        slope, offset = model()
        loss = (slope - data[1]).square() + (offset - data[0]).square().sum()
        loss.backward()
        run.optimizer.step()
    return {"samples": 10, "loss": loss.item()}


def evaluate(model, data, run):
    slope, offset = model()
    return {"samples": 10, "loss": ((slope - data[1]).square() + (offset - data[0]).square().sum()).item()}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture
def peers(folder: Path, forkserver: Path) -> Iterator[list[LocalPeer]]:
    opened(folder, 3)
    data = []
    for name, slope in (("a", 1), ("b", 2), ("c", 3)):
        place = folder / "data" / name
        place.mkdir(parents=True)
        (place / "slope.txt").write_text(str(slope))
        data.append(SiteData(name, place, 10, 10, 10))
    task = folder / "line.py"
    task.write_text(TASK.replace("GATE", str(folder / "gate")))
    made = found(
        folder,
        data,
        task,
        rounds=ROUNDS,
        metrics=("loss",),
        seed=7,
        patience_s=60.0,
        local="ditto:0.1",
        forkserver=forkserver,
    )
    yield made
    stop_all(made)


def opened(folder: Path, round_: int) -> None:
    (folder / "new-gate").write_text(str(round_))
    (folder / "new-gate").rename(folder / "gate")


def swarm(*arguments: object) -> Mapping[str, object]:
    ran = CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, [*(str(one) for one in arguments), "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return json.loads(ran.stdout)["data"]  # type: ignore[no-any-return]


def kept(peer: LocalPeer) -> list[Path]:
    return sorted(peer.site.private.rglob("round-*.safetensors"))


@pytest.mark.real
@pytest.mark.timeout(300)
def test_what_is_private_survives_and_is_nowhere_else(peers: list[LocalPeer], folder: Path) -> None:
    a, b, _ = peers
    secret = folder / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery staple\n")
    for peer in peers:
        peer.start("run.log_level=debug")
    until(lambda: all(peer.committed >= 3 for peer in peers), peers)
    swarm("backup", "create", a.site.folder, "-o", folder / "a.backup", "--passphrase-file", secret)
    assert swarm("backup", "verify", folder / "a.backup", "--passphrase-file", secret)["valid"]
    # One is killed in the middle of a round, and loses what it was writing.
    before = {path.name: path.read_bytes() for path in kept(b)}
    b.kill()
    half = kept(b)[-1].with_name(".round-0000000004.safetensors.4194305")
    half.write_bytes(kept(b)[-1].read_bytes()[:100])
    assert {path.name: path.read_bytes() for path in kept(b)} == before
    b.start("run.log_level=debug")
    # Another loses its machine and goes on from the backup.
    a.kill()
    a.site.folder.rename(folder / "lost")
    swarm("backup", "restore", folder / "a.backup", a.site.folder, "--passphrase-file", secret)
    assert [path.stat().st_mode & 0o777 for path in (*kept(a), kept(a)[0].parent)] == [0o600] * len(kept(a)) + [0o700]
    a.start("run.log_level=debug")
    opened(folder, ROUNDS)
    until(lambda: all(peer.done for peer in peers), peers)
    for peer in peers:
        assert [path.name for path in kept(peer)] == [f"round-{n:010}.safetensors" for n in (4, 5, 6)], peer.name
    # Each optimizer has made every step of every round once, whatever was begun twice.
    for peer in peers:
        own = load_file(kept(peer)[-1])
        assert own["optimizer/1/step"] == own["personal_optimizer/1/step"] == 4 * ROUNDS, peer.name
    for peer in peers:
        peer.stop()
    _search(peers, folder)
    _personal(peers)


def _search(peers: list[LocalPeer], folder: Path) -> None:
    """No 8 bytes of anything private are anywhere outside the site's own private folder."""
    for peer in peers:
        swarm("support-bundle", peer.site.folder, "-o", folder / f"{peer.name}.tar.gz")
        swarm("ledger", "export", peer.site.folder, "--bundle", folder / f"{peer.name}.bundle")
    every = [path for path in folder.rglob("*") if path.is_file() and "private" not in path.relative_to(folder).parts]
    looked = {path: _opened(path) for path in every if path.suffix != ".sock"}
    assert any(path.suffix == ".backup" for path in looked), "they are in it, and encrypted"
    assert any(path.name.endswith(".tar.gz") for path in looked)
    assert any("blobs" in path.parts for path in looked)
    for peer in peers:
        for path in kept(peer):
            for name, array in load_file(path).items():
                if name.startswith(("private/", "personal/offset", "optimizer/1", "personal_optimizer/1")):
                    if array.size < 2:
                        continue
                    raw = array.tobytes()
                    for place, data in looked.items():
                        assert raw[:8] not in data, (name, place)
                        assert raw[-8:] not in data, (name, place)


def _opened(path: Path) -> bytes:
    import gzip

    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _personal(peers: list[LocalPeer]) -> None:
    """A site's own model is the swarm's slope with its own offset, and better for it."""
    peer = peers[0]
    told = swarm("export", peer.site.folder, "--personal", "--evaluate")
    metrics = told["metrics"]
    assert isinstance(metrics, dict)
    assert metrics["personal"]["loss"] < metrics["swarm"]["loss"]
    assert told["round"] == ROUNDS
    path = Path(str(told["path"]))
    assert path.stat().st_mode & 0o777 == 0o600
    tensors = load_file(path)
    assert {*tensors} == {"slope", "offset"}
    common = swarm("export", peer.site.folder)
    assert {*load_file(str(common["path"]))} == {"slope"}
    assert np.abs(tensors["offset"]).max() > 0
