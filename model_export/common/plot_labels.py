"""Names in plots: fonts for each script that the machine has, and what stands in for others."""

from __future__ import annotations

import functools

import matplotlib
from matplotlib import font_manager

# After matplotlib's own; each is used for what those before it cannot draw.
_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC",
    "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback",
    "IPAGothic", "TakaoGothic", "NanumGothic", "Hiragino Sans", "PingFang SC",
    "Apple SD Gothic Neo", "Heiti TC", "Arial Unicode MS", "Yu Gothic", "MS Gothic",
    "Microsoft YaHei", "SimHei",
    "Malgun Gothic", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Thai", "Noto Sans Tamil", "Noto Sans Hebrew", "Nirmala UI", "Leelawadee UI",
)  # fmt: skip


def begin_plot() -> None:
    """Settings of matplotlib's own, whatever a `matplotlibrc` says, and all fonts of use."""
    matplotlib.rcdefaults()
    matplotlib.rcParams["font.family"] = list(_families())


def plot_label(name: str, length: int) -> str:
    """A name as a plot can draw it, of at most so many letters.

    A letter that no font has is written as its number: U+732B; tabs and the like are blanks.
    """
    name = name if len(name) <= length else name[: length - 1] + "…"
    name = "".join(" " if letter.isspace() else letter for letter in name)
    text = "".join(letter if _is_drawn(letter) else f"U+{ord(letter):04X} " for letter in name)
    return text.rstrip().replace("$", r"\$")  # a dollar sign would start a formula


@functools.cache
def _families() -> tuple[str, ...]:
    there = {font.name for font in font_manager.fontManager.ttflist}
    return ("DejaVu Sans", *(name for name in _FONTS if name in there))


@functools.lru_cache(maxsize=4096)
def _is_drawn(letter: str) -> bool:
    if letter == " ":
        return True
    return any(
        font_manager.get_font(font_manager.findfont(family)).get_char_index(ord(letter))
        for family in _families()
    )
