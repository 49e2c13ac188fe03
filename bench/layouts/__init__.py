"""``python -m bench layouts``: products whose weights lie in blocks of rows, beside the kernels as they are."""
