"""From the bytes of one file to its image in 8 bits: one module a family of formats.

`table` lists every format by what its content says, `opened` what each reader gives back. Imports
Pillow, NumPy, and, where a format needs them, the libraries of the extra `formats`.
"""
