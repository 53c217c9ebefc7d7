"""The reverse distillation family: students that reconstruct the features of a frozen teacher, at most two of them."""
