"""Tasks to audit: one that over-fits, one that trains privately, one whose data are elsewhere."""

from __future__ import annotations

from pathlib import Path

from node.audit.training import Setting, Trainee
from swarm.privacy.accounting import Budget

TASK = """\
import torch
from torch import nn

N = 160


def build_model():
    return nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 4))


def load_data(site):
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(2 * N, 20, generator=g), torch.randint(0, 4, (2 * N,), generator=g)
    return (x[:N], y[:N]), (x[N:], y[N:])


def train(model, data, run):
    x, y = data[0]
    BODY
    return {"samples": len(x)}


def evaluate(model, data, run):
    return {"samples": 1, "loss": 0.0}
"""

OVERFITTING = """optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()"""

PRIVATE = """optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    private = run.private(model, optimizer, len(x), batch=20, epochs=1)
    for rows in private:
        private.step(nn.functional.cross_entropy(model(x[rows]), y[rows], reduction="none"))"""

ONE_STEP = """optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()"""


def trainee(folder: Path, body: str = OVERFITTING, *, budget: Budget | None = None, text: str = TASK) -> Trainee:
    path = folder / "task.py"
    path.write_text(text.replace("BODY", body))
    return Trainee(Setting(task=path, data=folder, site="a", seed=1, rounds=1, clip=100.0, budget=budget))
