"""What tests are made of: images made on the spot, a tiny real model, the output read back."""

from __future__ import annotations

import json
import pathlib
import subprocess

import numpy as np
from PIL import Image

from imagecensus.model_export import verify

SHARED_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"
LABELS = ["red", "green", "blue", "mixed"]


def export_tiny(directory, seed: int = 1, labels=LABELS, size: int = 32) -> str:
    """A small convolutional classifier with seeded random weights, exported for real."""
    import keras

    from imagecensus.model_export.export import export_classifier
    from imagecensus.model_export.preprocess import PreprocessSpec

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(8, 5, strides=4, activation="relu"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(name="embedding"),
            # Large weights: scores that differ from image to image.
            keras.layers.Dense(
                len(labels), "softmax", kernel_initializer=keras.initializers.RandomNormal(0, 8)
            ),
        ]
    )
    golden = np.random.default_rng(seed).integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    export_classifier(
        model,
        PreprocessSpec(height=size, width=size),
        labels,
        str(directory),
        name=f"tiny {seed}",
        golden_images=golden,
    )
    return str(directory)


class ProofHere:
    """Takes the place of `subprocess` in `verify`: it proves an export in this process."""

    @staticmethod
    def run(command, **_) -> subprocess.CompletedProcess:
        figures = json.dumps(verify._compare(*command[-2:]))
        return subprocess.CompletedProcess(command, 0, figures, "")


def photo(seed: int, size=(64, 48)) -> Image.Image:
    """An image with structure: smooth colour waves and a disc, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]

    def wave():
        across, down, phase = rng.uniform(4, 20), rng.uniform(4, 20), rng.uniform(0, 6)
        return 128 + 100 * np.sin(x / across + phase) * np.cos(y / down)

    pixels = np.stack([wave(), wave(), wave()], -1)
    disc = (x - rng.uniform(0, size[0])) ** 2 + (y - rng.uniform(0, size[1])) ** 2 < 150
    pixels[disc] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_photos(folder, count: int, first: int = 0) -> list[str]:
    """Writes JPEGs named by their seed; returns their paths in listing order."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(first, first + count):
        path = folder / f"{seed:05d}.jpg"
        photo(seed).save(path, quality=90)
        paths.append(str(path))
    return paths


def read_rows(output):
    """The output table sorted by uri, as pyarrow reads the folder."""
    import pyarrow.parquet as pq

    table = pq.read_table(f"{output}/predictions")
    status = table.column("status").cast("string")  # dictionaries differ with the order of parts
    return table.set_column(1, "status", status).sort_by("uri").combine_chunks()
