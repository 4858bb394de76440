"""Names as people compare them."""

from __future__ import annotations

import unicodedata


def fold(name: str) -> str:
    """A name without regard to case, Unicode form and outer blanks.

    (Unicode's canonical caseless matching.)
    """
    decomposed = unicodedata.normalize("NFD", name.strip())
    return unicodedata.normalize("NFC", decomposed.casefold())
