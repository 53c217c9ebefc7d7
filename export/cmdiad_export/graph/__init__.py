"""Export a detector to one ONNX graph."""
