"""Benign or malignant, by XGBoost: every hospital boosts trees of its own, and all hold everybody's after one round.

A script of the loop form: `python xgboost_breast_cancer.py SITE`, in place of train.py in
docs/guides/from-your-script.md, with the same data: a .npz file with x (n, 30) and y. The last fifty are held out.
More rounds than one are for hospitals that were away.
"""

import sys

import numpy as np
import xgboost
from sklearn.metrics import roc_auc_score

import swarm
from node.tables import forests

SLOTS, SLOT_BYTES = 2, 200_000  # as many as hospitals

state = forests.slots(SLOTS, SLOT_BYTES)
peer = swarm.join(sys.argv[1], state)
with np.load(peer.data) as file:
    x, y = file["x"], file["y"]
plan = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.2, "subsample": 0.8, "seed": peer.index, "nthread": 1}
own = forests.booster_bytes(xgboost.train(plan, xgboost.DMatrix(x[:-50], y[:-50]), num_boost_round=50))


@peer.evaluate
def score(state):
    models, damaged = forests.boosters(state)
    assert models, f"no hospital's trees can be read; damaged: {damaged}"
    chances = np.mean([model.predict(xgboost.DMatrix(x[-50:])) for model in models], axis=0)
    return {"samples": 50, "auc": roc_auc_score(y[-50:], chances)}


while peer.running:
    forests.write(peer.receive(), peer.index, own)
    peer.send(samples=len(y) - 50)

print(f"AUC {score(state)['auc']:.4f} of {len(forests.boosters(state)[0])} hospitals' trees")
