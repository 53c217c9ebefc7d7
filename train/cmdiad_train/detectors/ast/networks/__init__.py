"""The networks of AST: features of the cells, normalising flow and student."""
