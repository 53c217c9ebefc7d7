"""The web process: pages for operators, engineers and admins, REST for programs, and metrics in one asyncio loop."""
