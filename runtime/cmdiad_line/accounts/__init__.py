"""People and programs that may use the station: accounts with roles, sign-in with lock-out, and tokens for programs."""
