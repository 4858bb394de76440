"""`make demo`: a small archive from nothing, a classifier trained on it, a table of predictions.

Draws images of five kinds in every format that archives hold, trains a small MobileNet-V2 on
part of them, classifies the rest with Beam and compares the answers with the truth. Uses only
what the package itself offers: each step is a command that a user could type.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import sys
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from imagecensus.jobs.command.options import Options, option

KINDS = ("bricks", "bubbles", "hills", "stars", "stripes")
SIZE = 160
TARGET_ACCURACY = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """A tour of imagecensus."""

    folder: str = option("demo-archive", "where everything goes; replaced", metavar="DIR")
    train: int = option(160, "training images of each kind", metavar="N")
    classify: int = option(48, "images of each kind to classify", metavar="N")
    epochs: int = option(20, "of training", metavar="N")


def main(argv: list[str]) -> int:
    """Runs the demo; returns 1 where the accuracy is below the target."""
    options = DemoOptions.parse(argv, "make demo")
    top = pathlib.Path(options.folder)
    shutil.rmtree(top, ignore_errors=True)
    start = time.monotonic()
    say(f"drawing {len(KINDS) * (options.train + options.classify)} images in {top}")
    draw_training_set(top / "train", options.train)
    truth = draw_archive(top / "archive", options.classify, first=options.train)

    model, output = str(top / "model"), str(top / "output")
    run(
        "train", str(top / "train"), "--output", model, "--weights", "none", "--alpha", "0.35",
        "--image-size", "64", "--epochs", str(options.epochs), "--learning-rate", "0.01",
        "--schedule", "cosine", "--patience", "0", "--augment", "flip,shift=0.1",
        "--name", "demo", "--quiet",
    )  # fmt: skip
    run("classify", str(top / "archive"), "--model", model, "--output", output)

    import pyarrow.parquet as pq

    table = pq.read_table(f"{output}/predictions").to_pandas()
    columns = ["uri", "status", "label", "score", "width", "height", "format"]
    shown = table[columns].head(8).copy()
    shown["uri"] = shown["uri"].map(lambda uri: os.path.relpath(uri, top))
    print(f"\nthe first rows of {output}/predictions:\n{shown.to_string(index=False)}\n")
    answers = dict(zip(table["uri"], table["label"], strict=True))
    right = [answers[os.path.abspath(path)] == kind for path, kind in truth.items()]
    accuracy = float(np.mean(right))
    print(f"accuracy on the {len(right)} held-out images: {accuracy:.3f}")
    print(f"the report to look at: {os.path.abspath(output)}/report.html")
    say(f"done in {time.monotonic() - start:.0f} s")
    return 0 if accuracy >= TARGET_ACCURACY else 1


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def run(*words: str) -> None:
    """One command in this process, shown as a user would type it."""
    from imagecensus.jobs import cli

    say("imagecensus " + " ".join(words))
    code = cli.run(words[0], words[1:])
    if code:
        sys.exit(code)


def draw_training_set(folder: pathlib.Path, count: int) -> None:
    """Class folders of PNGs, as `imagecensus train` takes them."""
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for seed in range(count):
            draw(kind, seed).save(folder / kind / f"{seed:04d}.png")


def draw_archive(folder: pathlib.Path, count: int, first: int) -> dict[str, str]:
    """Images in nested folders, in every format, and some broken files.

    Returns path → kind of the good ones.
    """
    truth = {}
    for kind in KINDS:
        for number in range(count):
            image = draw(kind, first + number)
            place = folder / f"{2015 + number % 4}" / f"roll-{number % 3}"
            place.mkdir(parents=True, exist_ok=True)
            save = FORMATS[number % len(FORMATS)]
            truth[str(save(image, place / f"{kind}-{number:04d}"))] = kind
    good = next(iter(truth))
    broken = folder / "broken"
    broken.mkdir()
    (broken / "empty.jpg").write_bytes(b"")
    (broken / "page.jpg").write_text("<html>moved</html>")
    (broken / "cut.jpg").write_bytes(pathlib.Path(good).read_bytes()[:1000])
    inks = b"8BPS\0\1" + bytes(7) + b"\1\0\0\0\1\0\0\0\1\0\x08\0\7"  # the mode Multichannel
    (broken / "inks.psd").write_bytes(inks + bytes(20))
    (broken / "gone.jpg").symlink_to("nowhere.jpg")
    return truth


def draw(kind: str, seed: int) -> Image.Image:
    """One image, `SIZE` a side: colours, places and sizes follow from the seed."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    image = Image.new("RGB", (SIZE, SIZE), _color(rng, 20, 110))
    pen = ImageDraw.Draw(image)
    if kind == "bricks":
        height, width = int(rng.integers(14, 24)), int(rng.integers(28, 48))
        for row, y in enumerate(range(-4, SIZE, height)):
            for x in range(-width + (row % 2) * width // 2, SIZE, width):
                pen.rectangle((x, y, x + width - 4, y + height - 4), _color(rng, 120, 230))
    elif kind == "bubbles":
        for _ in range(int(rng.integers(8, 16))):
            x, y, r = *rng.integers(0, SIZE, 2), rng.integers(10, 28)
            pen.ellipse((x - r, y - r, x + r, y + r), _color(rng, 120, 255))
    elif kind == "hills":
        for level in range(3):
            x = np.arange(SIZE)
            wave = SIZE * (0.35 + 0.2 * level) + rng.uniform(10, 25) * np.sin(
                x / rng.uniform(10, 25) + rng.uniform(0, 6)
            )
            line = [(int(a), int(b)) for a, b in zip(x, wave, strict=True)]
            pen.polygon([*line, (SIZE, SIZE), (0, SIZE)], _color(rng, 60, 220))
    elif kind == "stars":
        for _ in range(int(rng.integers(6, 12))):
            x, y, r = *rng.integers(0, SIZE, 2), rng.integers(12, 26)
            angles = np.arange(10) * np.pi / 5 + rng.uniform(0, 6)
            radii = np.where(np.arange(10) % 2, r * 0.4, r)
            points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
            pen.polygon([tuple(p) for p in points], _color(rng, 170, 255))
    else:
        period, slope = rng.uniform(12, 26), rng.uniform(-1.5, 1.5)
        color = _color(rng, 130, 255)
        y, x = np.mgrid[0:SIZE, 0:SIZE]
        mask = ((x + slope * y) % period) < period / 2
        image.paste(color, mask=Image.fromarray(mask))
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), np.int16)
    noisy = noisy + rng.integers(-12, 13, noisy.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _color(rng, low: int, high: int) -> tuple[int, int, int]:
    return tuple(int(value) for value in rng.integers(low, high, 3))


def _saver(suffix: str, mode: str = "RGB", **options):
    def save(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
        path = path.with_suffix(suffix)
        image.convert(mode).save(path, **options)
        return path

    return save


def _save_turned(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
    """As a camera held upright stores it: turned, with a tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = path.with_suffix(".jpeg")
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif)
    return path


def _save_sixteen_bit(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
    path = path.with_suffix(".tif")
    samples = np.asarray(image.convert("L"), np.uint16) * 257
    Image.fromarray(samples).save(path)
    return path


def _save_wrong_suffix(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
    path = path.with_suffix(".jpg")
    image.save(path, "PNG")
    return path


def _save_of_extra(suffix: str, codec: str):
    """With the extra `formats`; a PNG without it."""

    def save(image: Image.Image, path: pathlib.Path) -> pathlib.Path:
        try:
            import imagecodecs
        except ImportError:
            return _saver(".png")(image, path)
        path = path.with_suffix(suffix)
        path.write_bytes(getattr(imagecodecs, f"{codec}_encode")(np.asarray(image)))
        return path

    return save


FORMATS = (
    _saver(".jpg", quality=88),
    _saver(".png"),
    _saver(".webp", quality=85),
    _saver(".tiff", compression="tiff_lzw"),
    _saver(".gif", "P"),
    _saver(".cmyk.jpg", "CMYK", quality=90),
    _save_turned,
    _save_sixteen_bit,
    _saver(".png", "RGBA"),
    _save_wrong_suffix,
    _saver(".bmp"),
    _saver(".grey.jpg", "L", quality=85),
    _save_of_extra(".jxl", "jpegxl"),
    _save_of_extra(".jls", "jpegls"),
    _saver(".jp2"),
    _saver(".tga"),
)


if __name__ == "__main__":
    from imagecensus.jobs.cli import call

    sys.exit(call(lambda: main(sys.argv[1:]), "--debug" in sys.argv))
