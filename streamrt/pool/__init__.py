"""The pool: many models under one budget. Its memory is a cache of their weights.

`pool` is the face. `admission` decides, as a pure function, how much memory a request gets and which models give it.
`policy`, `shadow` and `adaptive` say which weights are worth their memory. `ledger` counts bytes. `entry` has the state
of a registered model, `resident` is the open model, and `lease` is the model that a user calls. `pins` keeps memory for
pinned models. `keeper` carries the decisions out, and `refusals` has the errors of models that it cannot load or pin.
`growth` asks for more memory in a call, and plans bands where the pool has too little.
"""

from streamrt.pool.entry import ModelStatus, State
from streamrt.pool.lease import Lease
from streamrt.pool.policy import Policy
from streamrt.pool.pool import ModelPool
from streamrt.pool.stats import PoolStats

__all__ = ["Lease", "ModelPool", "ModelStatus", "Policy", "PoolStats", "State"]
