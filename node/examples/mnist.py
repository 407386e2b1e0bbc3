"""Handwritten digits: the 2NN of McMahan et al. 2017 (784-200-200-10), plain PyTorch."""

import numpy as np
import torch
from torch import nn


def build_model():
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


def load_data(site):
    def read(name):
        with np.load(site.folder / name, allow_pickle=False) as file:
            return torch.from_numpy(file["x"].reshape(-1, 784).astype(np.float32) / 255), torch.from_numpy(file["y"])

    return read("train.npz"), read("test.npz")


def train(model, data, run):
    x, y = data[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used = 0
    for batch in torch.randperm(len(x)).split(10):
        if run.enough():
            break
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        used += len(batch)
    return {"samples": used, "loss": loss.item()}


def evaluate(model, data, run):
    x, y = data[1]
    right = (model(x).argmax(1) == y).float().mean()
    return {"samples": len(y), "accuracy": right.item()}
