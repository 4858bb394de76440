"""What a user may choose about each command: one file a command, of the same name.

A command's options are parsed before its module is imported, so that help and refusals are quick:
nothing here imports what takes long, such as NumPy, Arrow, Beam or TensorFlow.
"""
