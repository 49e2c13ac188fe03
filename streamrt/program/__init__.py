"""A graph lowered for given shapes: `compile`, then `placement` of all tensors in one `arena`."""
