"""Pages for operators, engineers and admins, REST for programs, and metrics: one process, one asyncio loop."""
