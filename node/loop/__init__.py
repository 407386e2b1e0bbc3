"""The loop form of a task: a user's own script stays in charge, and the node is what it talks to.

`form` tells a script from a file of functions, `describing` runs a script as far as its `join` to learn the model's
layout, `peer` is what the script holds, `trainer` is the node's side of it, `protocol` what the two say to each other,
`parameters` the model as one vector, and `local` a whole swarm of such loops in one process.
"""
