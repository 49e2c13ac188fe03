"""Exported programs of torch: `.pt2` files."""
