"""Running: a program and a plan are prepared for a call, and a session runs passes, one thread at a time.

To see how a pass works, read in this order: `streamrt.model`, what a user has; `face`, what a call is; `engine`, how
requests become a pass; `session`, how a pass runs; and `planner`, where its program and plan come from.
"""
