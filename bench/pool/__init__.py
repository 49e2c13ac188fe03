"""Benchmarks of pools of models: traces of requests, simulated and played, the cost of hits, and the bars to meet.

`driver` runs in the driver's process, and `tasks` has the work of the processes that it starts. `figures`, `bars` and
`table` make the tables from lines of results.
"""
