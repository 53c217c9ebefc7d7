"""Messages and frames that travel between the processes of a station. Nothing here is pickled."""
