"""Other people's training loops as loops of a swarm: `lightning` and `huggingface` are a callback each.

`rounds` is what they share. Only those two files import the libraries they are named after.
"""
