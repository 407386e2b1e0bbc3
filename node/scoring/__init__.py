"""How good a model is on a site's own held-out cases, how sure that is, and whether it beats what the site has already.

`cases` is what a task may hand over instead of numbers: for each held-out case the truth and what the model said.
`intervals` are the formulas, `measures` the metrics with their counts and intervals, `comparison` the verdict between
two models on the same cases, `words` what of it people read.

All of it is arithmetic on arrays: no torch, no clock, no file. It is under `node` and not under `swarm` because nobody
agrees on it. A score is a site's own statement, which no other site can recompute, so sums may be in any order and in
float64. What is agreed on, which scores may be told at all, is `swarm.disclosure`.
"""
