"""The benchmark suite: ``python -m bench`` runs it from the checkout, against the packages that are installed.

Nothing here may import ``streamrt`` in the driver: beside this folder lies an uncompiled one. Child processes do, and
they start with ``-P`` and load this package by its place (`bench.process.child`).
"""
