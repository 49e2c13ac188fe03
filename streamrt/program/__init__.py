"""A program: `compile` lowers a graph for given shapes, `placement` places all its tensors in one `arena`."""
