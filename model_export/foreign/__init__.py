"""Models from elsewhere: their labels, files and graphs, read without running code of theirs.

Imports nothing of `jobs`, `transforms` or `model_export.training`.
"""
