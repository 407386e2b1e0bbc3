"""Benign or malignant, from thirty measurements of cell nuclei: logistic regression, plain PyTorch."""

import numpy as np
import torch
from torch import nn

# Typical values and spreads of the thirty measurements, from the literature: the same at every hospital, so that nobody
# has to share statistics of its own patients to bring them to one scale.
TYPICAL = [13, 19, 86, 550, 0.096, 0.093, 0.062, 0.034, 0.18, 0.062, 0.32, 1.1, 2.3, 25, 0.0064]
TYPICAL += [0.02, 0.026, 0.011, 0.019, 0.0032, 15, 25, 98, 690, 0.13, 0.21, 0.23, 0.1, 0.28, 0.08]
SPREAD = [3.5, 4.3, 24, 350, 0.014, 0.053, 0.08, 0.039, 0.027, 0.0071, 0.28, 0.55, 2, 45, 0.003]
SPREAD += [0.018, 0.03, 0.0062, 0.0083, 0.0026, 4.8, 6.1, 34, 570, 0.023, 0.16, 0.21, 0.066, 0.062, 0.018]


def build_model():
    return nn.Linear(30, 1)


def load_data(site):
    def read(name):
        rows = np.loadtxt(site.folder / name, delimiter=",", skiprows=1, ndmin=2, dtype=np.float32)
        x = (rows[:, :-1] - np.float32(TYPICAL)) / np.float32(SPREAD)
        return torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(rows[:, -1:]))

    return read("train.csv"), read("test.csv")


def train(model, data, run):
    loader = torch.utils.data.DataLoader(data[0], batch_size=16, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=1e-3)
    used = 0
    for _ in range(5):
        for x, y in loader:
            if run.enough():
                break
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            optimizer.step()
            used += len(x)
    return {"samples": min(used, len(data[0])), "loss": loss.item()}


def evaluate(model, data, run):
    x, y = data[1].tensors
    score = model(x)
    loss = nn.functional.binary_cross_entropy_with_logits(score, y)
    # Accuracy, area under the curve and more, with intervals, follow from the cases (docs/guides/honest-results.md).
    return {"labels": y, "scores": torch.sigmoid(score), "loss": loss.item()}
