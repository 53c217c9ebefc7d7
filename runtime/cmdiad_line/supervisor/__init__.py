"""The process that starts and restarts the other processes of a station and decides every result."""
