"""Benchmarks of servers: real clients on loopback, streamrt beside MLServer and LitServe over ONNX Runtime.

`driver` runs in the driver's process, and `tasks` has the work of the processes that it starts. `servers` says how each
server is started and what it speaks; `programs/` has what runs inside the peers. `figures`, `bars` and `table` make the
tables from lines of results.
"""
