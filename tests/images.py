"""Generated images for tests: a few visually distinct classes, a little different each time."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "stripes", "triangle")


def draw(kind: str, seed: int, size: int = 96) -> Image.Image:
    """A shape of random colour, place and size on a noisy background."""
    rng = np.random.default_rng([CLASSES.index(kind), seed])
    background = rng.integers(0, 256, 3) // 2 + rng.integers(0, 40, (size, size, 3))
    image = Image.fromarray(background.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    color = tuple(int(c) for c in 128 + rng.integers(0, 128, 3))
    radius = int(size * rng.uniform(0.2, 0.35))
    x, y = (int(v) for v in rng.integers(radius, size - radius, 2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "disc":
        pen.ellipse(box, fill=color)
    elif kind == "square":
        pen.rectangle(box, fill=color)
    elif kind == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], color)
    else:
        step = int(rng.integers(8, 14))
        for offset in range(0, size, step):
            pen.rectangle((0, offset, size, offset + step // 2), fill=color)
    return image


def write_class_folders(folder, counts: dict[str, int], size: int = 96, seed: int = 0) -> None:
    """`counts` JPEGs of each class under `folder/<class>/`."""
    for kind, count in counts.items():
        target = os.path.join(folder, kind)
        os.makedirs(target, exist_ok=True)
        for index in range(count):
            name = os.path.join(target, f"{kind}-{index:04d}.jpg")
            draw(kind, seed * 100_000 + index, size).save(name, quality=90)


def contents(data, split="train") -> dict[tuple[str, str], bytes]:
    """(name, label) → bytes, of labelled images."""
    return {
        (name, data.labels[label]): read()
        for name, label, read in zip(
            data.splits[split].names,
            data.splits[split].labels,
            data.splits[split].open(),
            strict=True,
        )
    }


def manifest(path, rows) -> str:
    """Writes a list of (location, label); returns its path."""
    text = io.StringIO()
    csv.writer(text).writerows([("uri", "label"), *rows])
    path.write_text(text.getvalue())
    return str(path)
