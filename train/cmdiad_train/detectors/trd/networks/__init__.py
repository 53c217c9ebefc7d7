"""Networks of reverse distillation: the frozen teacher, and the parts of a student."""
