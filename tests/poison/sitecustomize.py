"""A decoder with real defects: put this folder on PYTHONPATH and Pillow opens poison.

A file that starts with POISON:segv, :hang, :spin or :eat, or as a JPEG and then so, makes the
decoder crash, wait, compute or allocate for ever, in C, as a defect in a codec would. And
Parquet with POISON in it crashes Arrow.
"""

import os
import signal

import PIL.Image
import pyarrow.parquet as pq

_open = PIL.Image.open


def _poisoned_open(file, *args, **kwargs):
    import ctypes

    head = file.getvalue()[:16] if hasattr(file, "getvalue") else b""
    head = head.removeprefix(b"\xff\xd8\xff")
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
            if len(kept) == 6:  # as the kernel does where memory ends; a child has bounds below
                os.kill(os.getpid(), signal.SIGKILL)
    return _open(file, *args, **kwargs)


PIL.Image.open = _poisoned_open


class _PoisonedParquet(pq.ParquetFile):
    """A defective reader: a column of the name POISON crashes it at once, a value while read."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "POISON" in self.schema_arrow.names:
            _crash()

    def iter_batches(self, *args, **kwargs):
        for rows in super().iter_batches(*args, **kwargs):
            if b"POISON:read" in b"".join(buffer or b"" for buffer in _buffers(rows)):
                _crash()
            yield rows


def _buffers(rows):
    return (buffer for column in rows.columns for buffer in column.buffers())


def _crash():
    import ctypes

    ctypes.string_at(0)


pq.ParquetFile = _PoisonedParquet
