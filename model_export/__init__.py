"""What a model is: its contract, its preprocessing, its export and its checks.

Imports nothing of `jobs` or `transforms`.
"""
