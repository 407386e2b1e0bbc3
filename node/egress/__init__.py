"""What may leave a site, what has left it, and what waits for its people to let it out.

`policy.py` is pure: a site's rules, and all the reasons why a charter asks for more than they allow. `record.py` is the
file of what has left. `gate.py` stands between what the worker has made and what the machine is told of it.
"""
