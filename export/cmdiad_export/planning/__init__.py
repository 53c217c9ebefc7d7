"""The budget planner: measure bank sizes, searches and precisions, and choose within a budget."""
