"""Accounts of people, with roles and lock-out, and tokens of programs."""
