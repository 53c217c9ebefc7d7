"""Build TensorRT and TensorRT-RTX engines on the device."""
