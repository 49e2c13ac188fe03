"""``python -m bench layers``: one model, layer by layer."""
