"""Who will default on a credit card: boosted trees over banks, one level of a tree a round, no data set pooled.

A script of the loop form: `python credit_trees.py SITE`. Found the swarm with `--staleness 0` and 151 rounds, which is
`PLAN.rounds`. A site's data are a .npz file with x (n, 23), y, and x_test, y_test to evaluate on.
"""

import sys

import numpy as np
from sklearn.metrics import roc_auc_score

import swarm
from node.tables.histogram import Boosting

PLAN = Boosting(features=23, trees=50, depth=3, bins=64, rate=0.2)

trees = PLAN.initial()
peer = swarm.join(sys.argv[1], trees)
with np.load(peer.data) as file:
    data = dict(file)


@peer.evaluate
def score(trees):
    return {"samples": len(data["y_test"]), "auc": roc_auc_score(data["y_test"], PLAN.score(trees, data["x_test"]))}


while peer.running:
    PLAN.work(peer.receive(), data["x"], data["y"])
    peer.send(samples=len(data["y"]))

print(f"AUC {score(trees)['auc']:.4f}")
