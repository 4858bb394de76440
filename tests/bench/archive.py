"""The images that the bench runs on: real photos where they are, generated ones elsewhere."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import sys

import numpy as np
from PIL import Image

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
WEIGHTS = SHARED / "weights" / "mobilenet_v2_1.0_224.weights.h5"
_TINY = ("cifar10", "mnist_png", "awkward", "weights")  # 32x32 thumbnails, broken files, models


def real_photos() -> list[pathlib.Path]:
    """Every ordinary photo of the shared folder, in name order; empty where it is absent."""
    return [
        path
        for path in sorted(SHARED.rglob("*"))
        if path.suffix.lower() in (".jpg", ".jpeg")
        and path.relative_to(SHARED).parts[0] not in _TINY
    ]


def every_file() -> list[pathlib.Path]:
    """Every file of the shared folder that could be an image: thumbnails and broken ones too."""
    return [
        path
        for path in sorted(SHARED.rglob("*"))
        if path.is_file() and path.relative_to(SHARED).parts[0] != "weights"
    ]


def make_archive(folder: pathlib.Path, count: int) -> pathlib.Path:
    """A folder of `count` photos: the real ones in turn, under names of their own."""
    photos = real_photos()
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(list(folder.iterdir())), count):
        target = folder / f"{index:06d}.jpg"
        if photos:
            if index < len(photos):
                shutil.copyfile(photos[index], target)
            else:
                # Other bytes behind its end: exact copies would be inferred once.
                photo = photos[index % len(photos)].read_bytes()
                target.write_bytes(photo + index.to_bytes(8, "big"))
        else:
            _generated(index % 256).save(target, quality=90)
    return folder


def large_photos(count: int) -> list[bytes]:
    """12-megapixel JPEGs (4000x3000, quality 90): real photos enlarged."""
    photos = real_photos()
    step = max(1, len(photos) // count)
    images = (
        [Image.open(path).convert("RGB") for path in photos[::step][:count]]
        if photos
        else [_generated(seed) for seed in range(count)]
    )
    files = []
    for image in images:
        across, down = image.size
        size = (4000, 3000) if across >= down else (3000, 4000)
        file = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def make_model(folder: pathlib.Path) -> None:
    """The ImageNet MobileNet-V2 1.0/224, exported; with random weights where they are absent."""
    if not (folder / "saved_model.pb").exists():
        import imagecensus.model_export.common.quiet_tensorflow  # noqa: F401  before TensorFlow

        # isort: split
        import keras

        from imagecensus.model_export.default_model import imagenet_labels, make_golden_images
        from imagecensus.model_export.export import export_classifier
        from imagecensus.model_export.preprocess import PreprocessSpec

        weights = str(WEIGHTS) if WEIGHTS.exists() else None
        spec = PreprocessSpec()
        export_classifier(
            keras.applications.MobileNetV2(weights=weights),
            spec,
            imagenet_labels(),
            str(folder),
            name="mobilenet_v2_1.0_224",
            golden_images=make_golden_images(spec),
            embedding_layer=None,
        )


def read_all(folder: str, count: int) -> list[bytes]:
    """The contents of the folder's first files."""
    paths = sorted(os.scandir(folder), key=lambda entry: entry.name)[:count]
    return [pathlib.Path(entry.path).read_bytes() for entry in paths]


def _generated(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC))
    noise = rng.integers(-12, 13, image.shape)
    return Image.fromarray((image + noise).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    make_model(pathlib.Path(sys.argv[1]))
