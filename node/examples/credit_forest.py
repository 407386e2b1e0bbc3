"""Who will default on a credit card: every bank grows a random forest, and all hold all trees after one round.

A script of the loop form: `python credit_forest.py SITE`, with the same data as credit_trees.py. More rounds than one
are for banks that were away.
"""

import sys

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

import swarm
from node.tables import forests

SLOTS, SLOT_BYTES = 3, 200_000  # as many as banks

state = forests.slots(SLOTS, SLOT_BYTES)
peer = swarm.join(sys.argv[1], state)
with np.load(peer.data) as file:
    data = dict(file)
own = RandomForestClassifier(50, max_leaf_nodes=32, random_state=peer.index).fit(data["x"], data["y"].astype(int))
trees = forests.Forest.of(own, classes=2).encode()


@peer.evaluate
def score(state):
    chances, _ = forests.predict(state, data["x_test"])
    return {"samples": len(chances), "auc": roc_auc_score(data["y_test"], chances[:, 1])}


while peer.running:
    forests.write(peer.receive(), peer.index, trees)
    peer.send(samples=len(data["y"]))

print(f"AUC {score(state)['auc']:.4f}")
