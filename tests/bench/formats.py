"""`make formats-bench`: what is seen of each format beside a second decoder; time and memory.

    PYTHONPATH=tests .venv-formats/bin/python tests/bench/formats.py [FOLDER ...] [--only KIND]

Files of each kind are made; those in the folders are compared, too. Compared is what is seen before
turning, colour profiles and resizing, in full size. Time and memory are those of one image of
1600 x 1200 pixels to 224 x 224, in one thread: the least CPU time of five, and what the process's
peak memory rises by. What differs more than `--tell` levels on average is named.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import gc
import io
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from image_files import CODECS, GREY, PILLOW, TIFFS, file_of, psd_of
from PIL import Image
from second_decoders import opinions

from imagecensus.model_export.decoding import table
from imagecensus.model_export.decoding.signatures import identify
from imagecensus.model_export.preprocess import PreprocessSpec, configure_pillow, decode_image

LARGE, SMALL = (1600, 1200), ((129, 97), (320, 200), (64, 48), (33, 250))
LARGEST_FILE = 3 << 20  # of those in folders
NEAR = 4.0  # levels on average: another library's upsampling, not another image
WHOLE = 1 << 20  # both sides are to be kept
_TIFFFILE = "tifffile, imagecodecs"
READ_BY = {  # ours; else Pillow
    "PDF": "pypdfium2", "HEIC": "pi-heif", "DNG": "rawpy", "DNG preview": "rawpy, Pillow",
    "DICOM": "pydicom", "DICOM JPEG-LS": "pydicom, imagecodecs", "TIFF LERC": _TIFFFILE,
    **dict.fromkeys(("JPEG XL", "QOI", "12-bit JPEG", "16-bit JPEG 2000", "HDR", "JPEG-LS"),
                    "imagecodecs"),
    **dict.fromkeys(("PPM", "PAM", "PFM", "DDS"), "NumPy"),
    **dict.fromkeys(("PSD", "PSD, 16 bits", "PSD, CMYK", "PSD, transparent"), "NumPy, Pillow"),
    **{kind: _TIFFFILE for kind in TIFFS if kind.endswith("inside")},
}  # fmt: skip
_LIBC = ctypes.CDLL(None)


@dataclasses.dataclass(kw_only=True)
class Row:
    """A kind of file. `differences`: of each file compared, (mean, largest) in levels."""

    decoders: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    differences: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    ms: float | None = None
    peak_mb: float | None = None

    def line(self, name: str) -> str:
        second = ", ".join(f"{found} {count}" for found, count in self.decoders.most_common())
        ours = "" if name.endswith("folders") else READ_BY.get(name, "Pillow")
        cells = [name, ours, second, str(len(self.differences))]
        if self.differences:
            means = [mean for mean, _ in self.differences]
            cells.append(f"{sum(mean <= NEAR for mean in means)}")
            near = [pair for pair in self.differences if pair[0] <= NEAR] or self.differences
            cells += [f"{max(mean for mean, _ in near):.2f}", str(max(most for _, most in near))]
        else:
            cells += [""] * 3
        cells += [f"{v:.0f}" if v is not None else "" for v in (self.ms, self.peak_mb)]
        return f"| {' | '.join(cells)} |"


def noisy_photo(size: tuple[int, int]) -> Image.Image:
    """As costly to decode as a photo: waves, a disc, and the noise of a sensor."""
    from samples import photo

    noise = np.random.default_rng(1).normal(0, 5, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(photo(5, size)) + noise).clip(0, 255).astype(np.uint8))


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _more_kinds() -> dict[str, Callable[[Image.Image], bytes]]:
    """Kinds beside those of `image_files`: how they are made of an RGB image."""
    return {
        "JPEG, chroma whole": lambda i: _saved(i, "JPEG", quality=90, subsampling=0),
        "JPEG, grey": lambda i: _saved(i.convert("L"), "JPEG", quality=90),
        "JPEG, CMYK": lambda i: _saved(i.convert("CMYK"), "JPEG", quality=90),
        "JPEG, Adobe RGB": lambda i: _saved(i, "JPEG", quality=90, icc_profile=adobe_rgb()),
        "PNG, palette": lambda i: _saved(i.quantize(256), "PNG"),
        "PNG, alpha": lambda i: _saved(_with_alpha(i), "PNG"),
        "WebP, alpha": lambda i: _saved(_with_alpha(i), "WEBP", lossless=True),
        "AVIF, alpha": lambda i: _saved(_with_alpha(i), "AVIF", quality=95),
        "TGA, alpha": lambda i: _saved(_with_alpha(i), "TGA"),
        "HEIC": _heic,
        "BMP, palette": lambda i: _saved(i.quantize(256), "BMP"),
        "PSD, 16 bits": lambda i: psd_of(np.asarray(i).astype(np.uint16) * 257),
        "PSD, CMYK": lambda i: psd_of(255 - np.asarray(i.convert("CMYK")), 4),
        "PSD, transparent": lambda i: psd_of(_matted(i), layers=-1),
    }


def _heic(image: Image.Image) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90)
    return buffer.getvalue()


def _with_alpha(image: Image.Image) -> Image.Image:
    alpha = Image.linear_gradient("L").resize(image.size)
    image = image.copy()
    image.putalpha(alpha)
    return image


def _matted(image: Image.Image) -> np.ndarray:
    """Over white, with its transparency beside it, as Photoshop flattens."""
    rgba = _with_alpha(image)
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba.getchannel("A"))
    return np.dstack([np.asarray(white), np.asarray(rgba)[..., 3]])


def adobe_rgb() -> bytes:
    """A profile of Adobe RGB's primaries and gamma, made here."""
    import struct

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv" + struct.pack(">IIH", 0, 1, round(2.19921875 * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"Wide \0" + bytes(79)
    tags = {
        b"desc": name, b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087), b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve,
    }  # fmt: skip
    at, index, content = 128 + 4 + 12 * len(tags), b"", b""
    for tag, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        index += tag + struct.pack(">II", at + len(content), len(value))
        content += value
    head = struct.pack(
        ">I4sI4s4s4s", at + len(content), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    head = head.ljust(36, b"\0") + b"acsp".ljust(32, b"\0")
    head += struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + index + content


def seen(data: bytes) -> np.ndarray:
    """What is seen, in full size: uint8 [H, W, 3]."""
    opened = table.open_image(data)
    side = 1 if opened.format == "PDF" else WHOLE  # of a page: 144 pixels to an inch
    loaded = opened.load(lambda orientation: (side, side))
    return np.asarray(loaded.image.convert("RGB"))


def compare(
    row: Row, path: pathlib.Path, name: str, tell: float, written: Image.Image | None = None
) -> None:
    """Adds a file's difference from the second decoder.

    Of what is known to be `written`: the first that reads it, or else what was written. Of others:
    the one that comes nearest, as each library misreads some files.
    """
    found = list(opinions(path, name))
    if written:
        found = [*found, ("as written", np.asarray(written))][:1]
    if not found:
        return
    try:
        ours = seen(path.read_bytes())
    except Exception as error:  # whatever keeps it from being seen is a row's status elsewhere
        print(f"  not seen, but by {found[0][0]}: {path.name}: {error}", file=sys.stderr)
        return
    mean, most, decoder = min(_difference(ours, theirs, name, who) for who, theirs in found)
    if most > 255:
        print(f"  {path.name}: another size by {decoder}", file=sys.stderr)
        return
    row.decoders[decoder] += 1
    row.differences.append((mean, most))
    if mean > tell:
        figures = f"mean {mean:.2f}, largest {most}"
        print(f"  {path.name} ({name}): {figures} from {decoder}", file=sys.stderr)


def _difference(ours: np.ndarray, theirs: np.ndarray, name: str, who: str) -> tuple:
    """(mean, largest, who); 256 for images of another size."""
    if name == "HEIF":  # FFmpeg does not cut off what blocks are filled up with
        theirs = theirs[: ours.shape[0], : ours.shape[1]]
    if ours.shape != theirs.shape:
        return 256.0, 256, who
    difference = np.abs(ours.astype(np.int16) - theirs)
    return float(difference.mean()), int(difference.max()), who


def measure(data: bytes, row: Row) -> None:
    """CPU milliseconds and MB of one image to 224 x 224."""
    spec = PreprocessSpec()
    out = np.empty(spec.shape, np.uint8)
    decode_image(data, spec, out)
    times = []
    for _ in range(5):
        start = time.process_time()
        decode_image(data, spec, out)
        times.append(time.process_time() - start)
    gc.collect()
    _LIBC.malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    decode_image(data, spec, out)
    row.ms, row.peak_mb = min(times) * 1e3, (_status("VmHWM") - before) / 1e3


def _status(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0


def made(kind: str, image: Image.Image) -> bytes:
    """A file of the kind, of this image."""
    more = _more_kinds()
    return more[kind](image) if kind in more else file_of(kind, image)


def public_files(folders: list[str]) -> Iterator[tuple[str, pathlib.Path]]:
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                name = identify(path.read_bytes()[:4096])
                if name in table.FORMATS:
                    yield name, path


def main() -> None:
    parser = argparse.ArgumentParser(prog="make formats-bench", description=__doc__)
    parser.add_argument("folders", nargs="*", help="more files to compare")
    parser.add_argument("--only", default="", help="kinds that contain this text")
    parser.add_argument("--tell", type=float, default=6.0)
    options = parser.parse_args()
    configure_pillow()
    rows: dict[str, Row] = {}
    for kind in (*PILLOW, *CODECS, *TIFFS, *_more_kinds()):
        if options.only in kind:
            rows[kind] = _one_kind(kind, options.tell)
            print(rows[kind].line(kind), flush=True)
    for name, path in public_files(options.folders):
        if options.only in name:
            compare(rows.setdefault(f"{name} of the folders", Row()), path, name, options.tell)
    head = "kind | read by | second decoder, files | files | alike | mean | largest | CPU ms | MB"
    print(f"\n| {head} |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(row.line(name) for name, row in rows.items()))


def _one_kind(kind: str, tell: float) -> Row:
    row = Row()
    with tempfile.TemporaryDirectory() as folder:
        for number, size in enumerate(SMALL):
            image = noisy_photo(size)
            data = made(kind, image)
            name = table.open_image(data).format
            path = pathlib.Path(folder) / f"{number}.{_SUFFIXES.get(name, name.lower())}"
            path.write_bytes(data)
            written = image.getchannel("R").convert("RGB") if kind in GREY else image
            compare(row, path, name, tell, written)
    try:
        measure(made(kind, noisy_photo(LARGE)), row)
    except Exception as error:
        print(f"  {kind} is not measured: {error}", file=sys.stderr)
    return row


_SUFFIXES = {"JPEG2000": "jp2", "JPEG XL": "jxl", "HEIF": "heic", "TIFF": "tif", "DICOM": "dcm"}

if __name__ == "__main__":
    main()
