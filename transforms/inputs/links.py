"""Symbolic links among local inputs: an image has one row, under the name that is no link.

A link whose target is listed under its own name is left out and counted, so that it neither doubles
an image nor, being first in the order of names, renames one. What is reached through links alone,
as in the trees of git-annex or DVC, is listed under the name of the link.
"""

from __future__ import annotations

import os

from imagecensus.model_export.common.ignored_names import ignored_kind, is_own
from imagecensus.transforms.inputs.selection import Selection


class Listed:
    """What is listed under its own name: the inputs, and folders that links have led to."""

    def __init__(self, paths: tuple[bytes, ...] = ()) -> None:
        """`paths`: absolute; those that are reached through a link do not count."""
        self._folders: dict[bytes, bytes] = {}  # where they really are
        self._roots = {path for path in paths if self.real(path) == path}

    def real(self, path: bytes) -> bytes:
        """The absolute path that has no link on its way."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        inside = os.path.join(self._folders[folder], name)
        return os.path.realpath(inside) if not name or os.path.islink(inside) else inside

    def add(self, real: bytes) -> None:
        """From now on, what lies there is listed."""
        self._roots.add(real)

    def holds(self, real: bytes, selection: Selection) -> bool:
        """Whether a target of a link is listed, by the rules for the folder that it is in."""
        if not os.path.exists(real):  # broken, or a circle of links: a row says so
            return False
        root, steps = real, list[bytes]()
        while root not in self._roots:
            root, step = os.path.split(root)
            if not step:
                return False
            steps.insert(0, step)
        below = [os.path.join(root, *steps[: at + 1]) for at in range(len(steps))]
        if any(map(ignored_kind, steps)) or any(map(is_own, below)):
            return False
        return not (steps and selection.chooses) or selection.would_take(
            os.fsdecode(os.path.join(*steps)), is_folder=os.path.isdir(real)
        )
