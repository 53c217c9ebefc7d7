"""CMDIAD Edge export: from a trained run to one certified ONNX graph and TensorRT engines."""
