"""Functions of AWS Lambda: the same network, client and events, with streamrt's example and with ONNX Runtime."""
