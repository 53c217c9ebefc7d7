"""The process in the middle of a station: starts and restarts the others, and decides every result."""
