"""Looking at a site from outside its node: what its ledger says, what the node answers, what there is to worry about.

A process of its own, or a command that ends, reads the ledger as it grows and asks the node a question now and then.
Nothing of it is in the node, so that whoever watches costs it an answer and can delay no round.
"""
