"""How many values a feature of a serialized `tf.Example` has, without reading the values.

    Example {Features features = 1}         Features {map<string, Feature> feature = 1}
    a map's entry {key = 1; value = 2}      Feature {BytesList = 1}      BytesList {bytes value = 1}

Each of these is a field with a length; what lies in a value is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from imagecensus.transforms.archives.members import Stream

_LENGTHY = 2  # the wire type of a field that starts with its length
_FIXED = {1: 8, 5: 4}
_LONGEST_HEAD = 20  # of a field: two varints
_LONGEST_NAME = 4096


class NoExample(ValueError):
    """The bytes are no message of protocol buffers."""


def count_values(file: Stream, start: int, length: int, feature: str) -> int:
    """How many byte strings a feature has; 0: none, it is not there, or it is of another type.

    Args:
      file: seekable.
      start, length: of the record in it.
      feature: its name.

    Raises:
      NoExample: that is no serialized tf.Example.
    """
    wanted, count = feature.encode(), 0
    for features in _fields(file, start, start + length, 1):
        for entry in _fields(file, *features, 1):
            if any(_text(file, *key) == wanted for key in _fields(file, *entry, 1)):
                count = sum(  # of a name that comes twice, the last one holds
                    1
                    for value in _fields(file, *entry, 2)
                    for byte_list in _fields(file, *value, 1)
                    for _ in _fields(file, *byte_list, 1)
                )
    return count


def _text(file: Stream, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(min(end - start, _LONGEST_NAME))


def _fields(file: Stream, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Where in the file the fields of a number have their content; all must lie before `end`."""
    while start < end:
        file.seek(start)
        head = file.read(min(_LONGEST_HEAD, end - start))
        tag, used = _varint(head, 0)
        kind = tag & 7
        if kind == _LENGTHY:
            length, used = _varint(head, used)
        elif kind == 0:
            length, used = 0, _varint(head, used)[1]
        elif kind in _FIXED:
            length = _FIXED[kind]
        else:
            raise NoExample("a field of an unknown kind")
        start += used
        if length > end - start:
            raise NoExample("a field that is longer than its message")
        if kind == _LENGTHY and tag >> 3 == number:
            yield start, start + length
        start += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        number |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return number, at
    raise NoExample("a number that does not end")
