"""The benchmark suite: ``python -m bench`` runs it from the checkout, against the installed packages.

The driver must not import ``streamrt``, because the uncompiled package of the checkout lies beside this folder. Child
processes import the installed package. They start with ``-P`` and load ``bench`` by its path (`bench.process.child`).
"""
