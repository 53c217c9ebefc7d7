"""Training of AST: features of the cells, the flow and the student."""
