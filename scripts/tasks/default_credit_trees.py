"""Who will default on a credit card: boosted trees, one level of a tree a round (`node.tables.histogram`).

The swarm grows fifty trees, in as many rounds as `SWARM_ROUNDS`. There is room for ten more, which a bank grows on its
own customers when it makes a model of its own: three levels each, one a call of train().
"""

import numpy as np
import torch
from torch import nn

from node.scoring.cases import read_cases
from node.scoring.measures import mean_area
from node.tables.histogram import Boosting

COMMON, OWN, DEPTH = 50, 10, 3
PLAN = Boosting(features=23, trees=COMMON + OWN, depth=DEPTH, bins=64, rate=0.2)
SWARM_ROUNDS = 1 + COMMON * DEPTH

fine_tune = 30  # OWN * DEPTH


def build_model():
    model = nn.Module()
    for name, array in PLAN.initial().items():
        model.register_parameter(name, nn.Parameter(torch.from_numpy(array)))
    return model


def state_of(model):
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def load_data(site):
    with np.load(site.folder / "customers.npz") as file:
        return {name: file[name] for name in file.files}


def train(model, data, run):
    PLAN.work(state_of(model), data["x_train"], data["y_train"])
    return {"samples": len(data["y_train"])}


def evaluate(model, data, run):
    chances = {
        part: torch.sigmoid(torch.from_numpy(scored(model, data[f"x_{part}"]))) for part in ("test", "elsewhere")
    }
    others = read_cases({"labels": data["y_elsewhere"], "scores": chances["elsewhere"]})
    return {"labels": data["y_test"], "scores": chances["test"], "auc_elsewhere": mean_area(others)}


def scored(model, x):
    return PLAN.score(state_of(model), x)
