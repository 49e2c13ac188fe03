"""Reading ONNX: a file a family of operators; `importer` begins, and goes from node to node."""
