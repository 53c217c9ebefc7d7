"""Plan an export within a budget of latency and memory."""
