"""Benign or malignant, by a small network that Lightning's own trainer trains: one callback makes it a site of a swarm.

A script of the loop form: `python lightning_breast_cancer.py SITE`, in place of train.py in
docs/guides/from-your-script.md, with the same data: a .npz file with x (n, 30) and y. The last fifty are held out.
"""

import sys

import lightning
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import swarm
from node.integrations.lightning import SwarmCallback


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 1))

    def training_step(self, batch):
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.005)


model = Classifier()
peer = swarm.join(sys.argv[1], model)
with np.load(peer.data) as file:
    x, y = torch.from_numpy(file["x"]), torch.from_numpy(file["y"])[:, None]


@peer.evaluate
def score(model):
    logits = model.net(x[-50:].to(model.device)).detach().cpu()
    return {"samples": 50, "auc": roc_auc_score(y[-50:], logits)}


loader = DataLoader(TensorDataset(x[:-50], y[:-50]), batch_size=16, shuffle=True)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
lightning.Trainer(max_epochs=-1, callbacks=[SwarmCallback(peer, epochs=2)], **quiet).fit(model, loader)
print(f"AUC {score(model)['auc']:.4f}")
