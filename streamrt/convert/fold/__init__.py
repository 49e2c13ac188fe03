"""Folding: rewriting a graph into a smaller one that computes the same. `rewrite` has the order of the steps."""
