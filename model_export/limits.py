"""The largest images that are decoded, where nobody asks for more. Light: imports nothing."""

from __future__ import annotations

MAX_PIXELS = 178_956_970  # Pillow's own hard limit (2 x 89,478,485)
MAX_SIDE = 65_535  # of a JPEG; what is longer is a strip made to break something
