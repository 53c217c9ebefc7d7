"""Support shared by every room of the runtime: files, caches, progress lines, command endings."""
