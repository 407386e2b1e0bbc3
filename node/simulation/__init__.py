"""SHELL. The learning simulator: thousands of peers that really train, on one machine or on a Ray cluster.

It answers *how well will it learn*; how long messages take and who fails is asked of the real node in the simulated
world (`topologies.world`). All peers' parameters are rows of one matrix. Local training comes in three forms behind one
interface (`steps`), from a hand-written batched backward pass to a plain loop; mixing is a sparse product with that
matrix (`mixing`); rows and work are spread over processes that share them (`shards`) or over actors that each hold some
(`actors`); `run` goes round by round.
"""
