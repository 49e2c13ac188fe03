"""The pool: many models under one budget. Its memory is a cache of their weights.

`pool` is the face. `keeper` gives leases, and `loads` opens models for them; `giving` has models shrink or closes them.
All of them change `memory`, which has the models, their bytes and the lock. `admission` decides, as a pure function,
how much memory a request gets and which models give it. `policy`, `shadow` and `adaptive` say which weights are worth
their memory, and `shared` has the policy's lock. `ledger` counts bytes. `pins` keeps memory for pinned models. `entry`
has the state of a registered model, and `entries` has all of these. `resident` is the open model, and `lease` is the
model that a user calls. `growth` asks for more memory in a call, and plans bands where the pool has too little.
`refusals` has the errors of models that cannot be loaded or pinned, and `failure` keeps errors without frames. `stats`
counts. `runtime` has the clock, the locks and the threads, which are those of `workers`.
"""

from streamrt.pool.entry import ModelStatus, State
from streamrt.pool.lease import Lease
from streamrt.pool.policy import Policy
from streamrt.pool.pool import ModelPool
from streamrt.pool.stats import PoolStats

__all__ = ["Lease", "ModelPool", "ModelStatus", "Policy", "PoolStats", "State"]
