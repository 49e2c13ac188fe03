"""The pool: many models under one budget, which is a cache of their weights.

`admission` decides, as a pure function, how much memory a request gets and who gives it; `policy`, `shadow` and
`adaptive` say what weights are worth; `ledger` counts. `entry` is what is known of a model, `resident` the open model,
`lease` what its user gets; `keeper` puts what was decided into effect, and `pool` is the face.
"""

from streamrt.pool.entry import ModelStatus, State
from streamrt.pool.lease import Lease
from streamrt.pool.policy import Policy
from streamrt.pool.pool import ModelPool
from streamrt.pool.stats import PoolStats

__all__ = ["Lease", "ModelPool", "ModelStatus", "Policy", "PoolStats", "State"]
