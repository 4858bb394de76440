"""What the pipeline does: the flat modules are its stages, in the order list, read, decode,
classify, write. The folders below hold what the stages are made of.

Imports `model_export`; never imports `jobs`.
"""
