"""Learning from tables through the ordinary mean: boosted trees, linear models, centroids, forests.

None of these is trained by gradients of one loss, and none needs another protocol: each is arranged so that what the
swarm does anyway, the mean of updates weighted by sample counts, is what it wants. So everything that holds for a
network holds here: the ledger, clipping, catching up, absent sites, whatever hides single updates. The state is a dict
of NumPy arrays, as `swarm.join` takes it; nothing here imports PyTorch or scikit-learn unless it is given one.
"""
