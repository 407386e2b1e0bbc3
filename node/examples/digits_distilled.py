"""Handwritten digits, two models that teach each other: a small one that travels, and the site's own.

Deep mutual learning (Zhang et al. 2018), among sites as in FML (Shen et al. 2020): each model learns the labels, and
what the other believes. Only `messenger` travels. The accuracy that is told to others is the messenger's: of what
evaluate() returns, only those metrics are that the charter names.
"""

import numpy as np
import torch
from torch import nn

private = ["own.*"]


def build_model():
    model = nn.Module()
    model.messenger = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    model.own = nn.Sequential(nn.Conv2d(1, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10))
    return model


def load_data(site):
    def read(name):
        with np.load(site.folder / name, allow_pickle=False) as file:
            return torch.from_numpy(file["x"].reshape(-1, 1, 28, 28).astype(np.float32) / 255), torch.from_numpy(
                file["y"]
            )

    return read("train.npz"), read("test.npz")


def train(model, data, run):
    x, y = data[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used = 0
    for batch in torch.randperm(len(x)).split(10):
        if run.enough():
            break
        optimizer.zero_grad()
        messenger, own = model.messenger(x[batch]), model.own(x[batch])
        loss = taught(messenger, own, y[batch])
        (loss + taught(own, messenger, y[batch])).backward()
        optimizer.step()
        used += len(batch)
    return {"samples": used, "loss": loss.item()}


def taught(learner, teacher, y):
    belief = teacher.detach().softmax(1)
    return nn.functional.cross_entropy(learner, y) + nn.functional.cross_entropy(learner, belief)


def evaluate(model, data, run):
    x, y = data[1]
    right = (model.messenger(x).argmax(1) == y).float().mean()
    own = (model.own(x).argmax(1) == y).float().mean()
    return {"samples": len(y), "accuracy": right.item(), "own_accuracy": own.item()}
