"""Reading ONNX. Start at `importer`, which converts node by node. Each family of operators has a file."""
