"""How long breast cancer patients of TCGA live: ridge Cox regression on thirty-nine features, plain PyTorch.

A site's loss is the negative log partial likelihood of its own patients (Cox 1972, ties after Breslow), divided by how
many they are. The swarm's mean weighs sites by patients, so what it minimises is the stratified likelihood: who is at
risk beside whom is asked within a region only, and no patient is compared with one of another site.
"""

import numpy as np
import torch
from torch import nn

from node.scoring.cases import read_cases
from node.scoring.measures import concordance_index

FEATURES = 39
TYPICAL_AGE, SPREAD_AGE = 60.0, 13.0  # years, agreed in advance; all else is indicators
RIDGE, RATE, STEPS = 0.01, 0.5, 5

fine_tune = 2


def build_model():
    return nn.Linear(FEATURES, 1, bias=False)


def load_data(site):
    def read(name):
        rows = torch.from_numpy(np.loadtxt(site.folder / name, delimiter=",", skiprows=1, ndmin=2, dtype=np.float32))
        return prepared(rows[:, :FEATURES]), rows[:, FEATURES + 1], rows[:, FEATURES] > 0

    return read("train.csv"), read("test.csv")


def prepared(x):
    age = (x[:, :1] - TYPICAL_AGE) / SPREAD_AGE
    return torch.cat([age, x[:, 1:]], dim=1)


def partial_likelihood(risks, times, events):
    """Mean over patients of the negative log partial likelihood; `times` and the rest have shape (n,)."""
    order = torch.argsort(times, descending=True, stable=True)
    risks, times, events = risks[order], times[order], events[order]
    # At risk at a patient's time are all up to the last one of the same time.
    last = torch.searchsorted(-times, -times, right=True) - 1
    return -(risks - torch.logcumsumexp(risks, 0)[last])[events].sum() / len(times)


def train(model, data, run):
    x, times, events = data[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, weight_decay=RIDGE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = partial_likelihood(model(x)[:, 0], times, events)
        loss.backward()
        optimizer.step()
    return {"samples": len(x), "loss": loss.item()}


def evaluate(model, data, run):
    x, times, events = data[1]
    cases = {"times": times, "events": events, "risks": model(x)[:, 0]}
    # The c-index of fewer than five events, which nobody should rely on, is not among what follows from the cases.
    return {**cases, "concordance": concordance_index(read_cases(cases))}
