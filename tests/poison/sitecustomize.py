"""A decoder with real defects: put this folder on PYTHONPATH and Pillow opens poison.

A file that starts with POISON:segv, :hang, :spin or :eat makes the decoder crash, wait, compute or
allocate for ever, in C, as a defect in a codec would.
"""

import PIL.Image

_open = PIL.Image.open


def _poisoned_open(file, *args, **kwargs):
    import ctypes

    head = file.getvalue()[:12] if hasattr(file, "getvalue") else b""
    if head.startswith(b"POISON:segv"):
        ctypes.string_at(0)
    if head.startswith(b"POISON:hang"):
        ctypes.CDLL(None).sleep(1_000_000)  # without the interpreter's lock
    if head.startswith(b"POISON:lock"):
        ctypes.PyDLL(None).sleep(1_000_000)  # with it
    if head.startswith(b"POISON:eat"):
        kept = []
        while True:
            kept.append(b"x" * (1 << 28))
    return _open(file, *args, **kwargs)


PIL.Image.open = _poisoned_open
