"""Reading ONNX. `importer` is the entry and goes from node to node; each family of operators has a file."""
