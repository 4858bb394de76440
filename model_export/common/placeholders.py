"""What lies in the place of a file that was never fetched: a Git LFS pointer, a web page."""

from __future__ import annotations

_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")


def placeholder(head: bytes) -> str:
    """What the first bytes say of such a file, with the remedy; "" where they are of no such."""
    if head.startswith(_POINTER):
        return "a Git LFS pointer in the place of the file; fetch it with git lfs pull"
    if head[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        return "a web page in the place of the file; download it anew"
    return ""
