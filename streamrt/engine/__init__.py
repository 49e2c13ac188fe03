"""Running: a call of a model becomes a pass over its weights.

To see how a pass works, read five files in this order:

1. `streamrt.model` is the face that a user has: `Model` opens a weights file and makes an engine for it.
2. `face` defines a call: it makes a request of the inputs, lets the engine serve it, and returns the results.
3. `engine` runs requests in passes: it prepares a program and a plan, and has inputs and results copied (`transfer`).
4. `session` runs a pass: each step waits for its ranges of weights, computes, and releases them.
5. `planner` finds the program and the plan for a call's shapes, and learns from the times of passes.

The other files have one subject each. `turns` decides which thread runs a pass, and for which requests. `inputs` checks
the inputs of a call, `foreign` reads and writes arrays of other libraries, and `options` checks arguments of a model.
`workspace` and `results` allocate memory. `ahead` fetches rows of inputs in mapped files, and `mapped` writes results
to mapped files. `sessions` keeps sessions that share a workspace, and `steps` makes their steps. `groups` puts batches
of one caller together. `params` has parameters as they lie in the file, and `tables` reads single rows of them.
`verification` finds damaged weights as they arrive. `comparison` tells how much the answers of two models differ.
`loader` has weights in memory while there is no session.

The planner has nine helpers. `prepared` remembers what it found, and `programs` keeps programs. `trial` tries a new
graph. `node_weights` lists the weights that nodes read. `micro_batch` divides a batch that does not fit, and `bands`
one sample; `shortest` finds out whether another way is faster than the first that fits. `cache_parts` divides a batch
whose activations leave the cache. `pass_size` finds how many samples to run together.
"""
