"""Which of the files that are found are listed: `--exclude`, `--include`, and how many are not.

A pattern matches a path relative to its input, in any case of letters: one without a slash the name
of a file or folder at any depth, one with a slash the path from the input on. What lies in a folder
that matches is matched, too. `*` and `?` stop at slashes, `**` does not.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable

_PARTS = re.compile(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """What is left out of folders, stores and archives, and a count of it by kind.

    Attributes:
      exclude: patterns; what matches one of them is left out.
      include: patterns; where there are some, a file that matches none of them is left out.
      left_out: counts by the names of `ignored_names.KINDS`.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def chooses(self) -> bool:
        """Whether anything may be left out by a pattern."""
        return bool(self.exclude or self.include)

    def excludes(self, *paths: str) -> bool:
        """Whether a file or folder is left out, under any of the paths that it goes by; counted."""
        excluded = bool(self.exclude) and any(map(_compiled(self.exclude), paths))
        self.left_out["excluded"] += excluded
        return excluded

    def would_take(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path would be listed; nothing is counted."""
        probe = dataclasses.replace(self, left_out=collections.Counter())
        return not probe.excludes(path) if is_folder else probe.takes(path)

    def takes(self, *paths: str) -> bool:
        """Whether a file is listed; if not, it is counted."""
        if self.excludes(*paths):
            return False
        included = not self.include or any(map(_compiled(self.include), paths))
        self.left_out["excluded"] += not included
        return included


@functools.lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> Callable[[str], object]:
    return re.compile("|".join(map(_any_depth, patterns)), re.IGNORECASE | re.DOTALL).fullmatch


def _any_depth(pattern: str) -> str:
    inner = pattern.rstrip("/")
    anywhere = "" if "/" in inner else "(?:.*/)?"
    return f"{anywhere}{translate(inner.lstrip('/'))}(?:/.*)?"


def translate(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stop at slashes, `**` does not."""
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    out = ""
    for part in _PARTS.split(pattern):
        if part in known:
            out += known[part]
        elif part.startswith("[") and part.endswith("]") and (found := _one_of(part[1:-1])):
            out += found
        else:
            out += re.escape(part)
    return out


def _one_of(letters: str) -> str:
    """`[letters]` as a regular expression; "" where they are no letters and ranges of them."""
    negated = "^" if letters.startswith(("!", "^")) else ""
    inner = re.sub(r"([\\\[&|~])", r"\\\1", letters.removeprefix("!").removeprefix("^"))
    try:
        re.compile(f"[{negated}{inner}]")
    except re.error:
        return ""
    return f"[{negated}{inner}]"
