"""What a user runs: one module a command, and nothing else.

The folders below hold what commands share. Nothing outside of `jobs` imports from here.
"""
