"""``python -m bench accuracy``: what weights in fewer bytes do to the answers of trained networks.

`crops` cuts the inputs out of pictures that packages ship, `networks` lists the networks, `measure` compares the types
of weights of one network in a process of its own, `metrics` has the arithmetic, and `table` the report.
"""
