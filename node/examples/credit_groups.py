"""Groups of credit customers: k-means over banks, whose rounds are Lloyd's steps on all rows.

A script of the loop form: `python credit_groups.py SITE`, with the same data as credit_trees.py; `--staleness 0`.
"""

import sys

import numpy as np

import swarm
from node.tables import kmeans

GROUPS = 5

# Where to begin has to be no bank's customers: corners drawn by chance.
state = kmeans.initial(np.random.default_rng(7).normal(1.0, 0.5, size=(GROUPS, 23)))
peer = swarm.join(sys.argv[1], state)
with np.load(peer.data) as file:
    data = dict(file)
rows = np.arcsinh(data["x"]) / 5

while peer.running:
    peer.receive()
    distance = kmeans.work(state, rows)
    peer.send(samples=len(rows), metrics={"loss": distance}, evaluation={"samples": len(rows), "loss": distance})

print(f"distance {kmeans.assign(state, rows)[1].mean():.4f}")
