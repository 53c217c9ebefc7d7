"""AST: a student that cannot follow a normalising flow where a part differs from the good ones."""
