"""Benchmarks of pools: traces of requests, the least bytes that they load, simulations, and real runs."""
