"""Commands of the runtime. No logic."""
