"""Handwritten digits by a small convolutional network, at sites that train in as many processes as they have GPUs.

Plain PyTorch, as under `torchrun`: each process takes its share of every epoch, and DistributedDataParallel averages
the gradients, so that all stay one model. A site with one process runs the same file.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def build_model():
    return nn.Sequential(nn.Conv2d(1, 8, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 10))


def load_data(site):
    def read(name):
        with np.load(site.folder / name, allow_pickle=False) as file:
            x = torch.from_numpy(file["x"].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
            return TensorDataset(x, torch.from_numpy(file["y"]))

    return read("train.npz"), read("test.npz")


def train(model, data, run):
    net = DistributedDataParallel(model) if run.processes > 1 else model
    share = DistributedSampler(data[0], num_replicas=run.processes, rank=run.rank, seed=run.seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used = 0
    for x, y in DataLoader(data[0], batch_size=10, sampler=share):
        if run.enough():
            break
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x.to(run.device)), y.to(run.device))
        loss.backward()
        optimizer.step()
        used += len(x)
    return {"samples": used, "loss": loss.item()}  # of this process: the site adds samples up


def evaluate(model, data, run):  # in the first process alone
    x, y = data[1].tensors
    right = (model(x.to(run.device)).argmax(1) == y.to(run.device)).float().mean()
    return {"samples": len(y), "accuracy": right.item()}
