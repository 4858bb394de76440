"""Symbolic links among local inputs: an image has one row, under the name that is no link.

A link whose target is listed under its own name is left out and counted, so that it neither doubles
an image nor, being first in the order of names, renames one. What is reached through links alone
has one row, too, under the name of the oldest of them: a new link renames nothing. What lies behind
several links is as old as the newest of them. So it is with files that are called by their content,
as git-annex, DVC and Hugging Face's cache keep them. A link to a folder that it lies in is left
out: it is a loop.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator

from imagecensus.model_export.common.ignored_names import ignored_kind, is_own
from imagecensus.transforms.inputs.selection import Selection, translate

Linked = Iterator[tuple[str, tuple[str, int, str]]]  # an input, and one of its files
Follow = Callable[[bytes], Linked]  # what a link leads to


class Listed:
    """What is listed: the inputs, under their own names, and what links have led to."""

    def __init__(
        self, paths: Iterable[bytes] = (), patterns: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """What the inputs are.

        Args:
          paths: absolute; those that are reached through a link do not count.
          patterns: of globs, each a folder without wildcards and the pattern below it.
        """
        self._folders: dict[bytes, bytes] = {}  # where they really are
        self._roots = {path for path in paths if self.real(path) == path}
        self._globs = [
            (os.path.realpath(folder), re.compile(os.fsencode(translate(os.fsdecode(pattern)))))
            for folder, pattern in patterns
        ]
        self._taken: set[bytes] = set()  # digests of files that a link gave a row
        self._inputs: list[Follow] = []
        self._waiting: list[tuple[int, bytes, int]] = []  # a heap: age, link, number of the input

    def real(self, path: bytes) -> bytes:
        """The absolute path that has no link on its way."""
        folder, name = os.path.split(path)
        inside = os.path.join(self._real_folder(folder), name)
        return os.path.realpath(inside) if not name or os.path.islink(inside) else inside

    def _real_folder(self, folder: bytes) -> bytes:
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder]

    def add(self, real: bytes) -> None:
        """From now on, what lies there is listed."""
        self._roots.add(real)

    def holds(self, real: bytes, selection: Selection) -> bool:
        """Whether a target of a link is listed, by the rules for the folder that it is in."""
        if not os.path.exists(real):  # broken, or a circle of links: a row says so
            return False
        root, steps = real, list[bytes]()
        while root not in self._roots and not self._is_matched(root):
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

    def _is_matched(self, path: bytes) -> bool:
        """Whether it is among what the globs match."""
        return any(
            path.startswith(folder + b"/") and matches.fullmatch(path[len(folder) + 1 :])
            for folder, matches in self._globs
        ) and not ignored_kind(os.path.basename(path))

    def leads_back(self, folder: bytes, name: bytes) -> bool:
        """Whether a link in a folder leads to that folder or to one around it."""
        real = self.real(os.path.join(folder, name)).rstrip(b"/")
        return (self._real_folder(folder) + b"/").startswith(real + b"/")

    def wait_for(self, follow: Follow) -> int:
        """The number of an input, whose links `follow` will list."""
        self._inputs.append(follow)
        return len(self._inputs) - 1

    def wait(self, link: bytes, root: bytes, number: int) -> int:
        """Lets a link of an input wait for what the others list; returns how many wait.

        `root`: the folder that paths of the input are relative to.
        """
        heapq.heappush(self._waiting, (_age(link, root), link, number))
        return len(self._waiting)

    def follow_links(self) -> Linked:
        """What the links that wait lead to, the oldest first: so a new one never renames an image.

        Links that are found on the way join them.
        """
        last = b""
        while self._waiting:
            _, link, number = heapq.heappop(self._waiting)
            if link != last:
                yield from self._inputs[number](link)
            last = link

    def take(self, link: bytes, selection: Selection) -> bool:
        """Whether a link is listed, as nothing else gives its target a row; from now on it does."""
        real = self.real(link)
        if self.holds(real, selection):
            return False
        if os.path.isdir(real):
            self.add(real)
        elif os.path.exists(real):
            if _digest(real) in self._taken:
                return False
            self._taken.add(_digest(real))
        return True

    def has(self, path: bytes) -> bool:
        """Whether what lies in a folder behind a link is listed by an input or another link."""
        real = self.real(path)
        known = real in self._roots or (bool(self._taken) and _digest(real) in self._taken)
        return known or self._is_matched(real)


def _age(link: bytes, root: bytes) -> int:
    """A key by which the oldest link comes first: when the newest link on its way was made."""
    made, path = 0, link
    while path.startswith(root) and path != os.path.dirname(path):
        with contextlib.suppress(OSError):  # gone meanwhile
            info = os.lstat(path)
            made = max(made, info.st_mtime_ns if stat.S_ISLNK(info.st_mode) else 0)
        path = os.path.dirname(path)
    return made


def _digest(real: bytes) -> bytes:
    return hashlib.blake2b(real, digest_size=8).digest()
