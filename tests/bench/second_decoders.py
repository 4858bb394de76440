"""Other libraries' answer for a file, as 8-bit RGB as stored: what `formats.py` compares with.

They are no dependencies; `make formats-bench` installs them in an environment of their own.
"""

from __future__ import annotations

import io
import pathlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Rgb = np.ndarray  # uint8 [H, W, 3]
_CODECS = {".pam": "pam", ".pcx": "pcx"}
_MATRICES = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # BT.709, BT.2020; else BT.601


def _over_white(samples: np.ndarray) -> Rgb:
    """Levels of 8 bits, [H, W], or [H, W, 1 to 4] of which an even count ends with alpha."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    if samples.shape[2] in (2, 4):
        alpha = samples[..., -1:] / 255
        samples = np.rint(samples[..., :-1] * alpha + 255 * (1 - alpha))
    return np.broadcast_to(samples, (*samples.shape[:2], 3)).astype(np.uint8)


def ffmpeg(path: pathlib.Path) -> Rgb:
    """FFmpeg by PyAV: decoders of its own for nearly all formats."""
    import av

    av.logging.set_level(av.logging.PANIC)
    if path.suffix in _CODECS:  # not told by content
        codec = av.CodecContext.create(_CODECS[path.suffix], "r")
        frame = [*codec.decode(av.Packet(path.read_bytes())), *codec.decode(None)][0]
    else:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
    if frame.format.name.startswith(("yuv", "nv12")):
        # libheif repeats chroma; all others interpolate it.
        return _from_yuv(
            frame, Image.NEAREST if path.suffix in (".heic", ".heif") else Image.BILINEAR
        )
    if frame.format.name.startswith("gbrpf") or "f32" in frame.format.name:
        planes = frame.to_ndarray(format="gbrpf32le")
        return np.rint(planes.clip(0, 1) * 255).astype(np.uint8)
    return _over_white(frame.to_ndarray(format="rgba"))


def _from_yuv(frame, upsample: int) -> Rgb:
    """By the matrix and the range that are stated."""
    name = frame.format.name
    bits = frame.format.components[0].bits
    kind = np.uint8 if bits == 8 else np.uint16
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
        image = Image.fromarray(rows.astype(np.float32))
        across, down = -(-frame.width // plane.width), -(-frame.height // plane.height)
        image = image.resize((plane.width * across, plane.height * down), upsample)
        planes.append(np.asarray(image)[: frame.height, : frame.width])
    one = float(1 << (bits - 8))
    if "j" in name or frame.color_range == 2:
        luma, gain = planes[0] / (255 * one if bits == 8 else (1 << bits) - 1), 255 * one
    else:
        luma, gain = (planes[0] - 16 * one) / (219 * one), 224 * one
    if len(planes) == 1:
        return _over_white(np.rint(luma.clip(0, 1) * 255))
    blue, red = ((plane - 128 * one) / gain for plane in planes[1:3])
    of_red, of_blue = _MATRICES.get(int(frame.colorspace), (0.299, 0.114))
    r = luma + 2 * (1 - of_red) * red
    b = luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    levels = np.rint(np.stack([r, g, b], -1).clip(0, 1) * 255)
    if len(planes) == 4:
        levels = np.dstack([levels, planes[3] / one])
    return _over_white(levels)


def openimageio(path: pathlib.Path) -> Rgb:
    """OpenImageIO: readers of its own for TGA, SGI, DDS, PSD, ICO, HDR, BMP, PNM."""
    import OpenImageIO

    config = OpenImageIO.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)
    file = OpenImageIO.ImageInput.open(str(path), config)
    if file is None:
        raise ValueError(OpenImageIO.geterror())
    spec = file.spec()
    floats = spec.format.basetype in (OpenImageIO.FLOAT, OpenImageIO.HALF)
    kind = OpenImageIO.FLOAT if floats else OpenImageIO.UINT8
    samples = file.read_image(0, 0, 0, min(spec.nchannels, 4), kind)
    file.close()
    if samples is None:
        raise ValueError("not read")
    if floats:
        samples = _levels(samples, path)
    if samples.ndim == 3 and samples.shape[2] == 4 and spec.alpha_channel < 0:
        samples = samples[..., :-1]
    return _over_white(samples)


def opencv(path: pathlib.Path) -> Rgb:
    """OpenCV."""
    import cv2

    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    samples = cv2.imread(str(path), flags)
    if samples is None:
        raise ValueError("not read")
    if samples.dtype == np.uint16:
        samples = samples >> 8
    if samples.dtype == np.float32:
        samples = _levels(samples, path)
    if samples.ndim == 3 and samples.shape[2] > 2:
        samples = samples[..., [2, 1, 0, *range(3, samples.shape[2])]]
    return _over_white(samples)


def _levels(samples: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Floats as 8 bits, by the rules that docs/formats.md states."""
    if path.suffix == ".hdr":
        light = samples.clip(0, 1)
        samples = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    elif samples.max(initial=0) > 1:
        samples = samples / 255
    return np.rint(samples.clip(0, 1) * 255).astype(np.uint8)


def pillow(path: pathlib.Path) -> Rgb:
    """Pillow, where ours is another library."""
    with Image.open(path) as image:
        return _over_white(np.asarray(image.convert("RGBA")))


def pillow_jxl(path: pathlib.Path) -> Rgb:
    """JPEG XL by libjxl through Rust."""
    import pillow_jxl as library  # noqa: F401 - registers itself

    with Image.open(path, formats=("jxl",)) as image:
        return _over_white(np.asarray(image.convert("RGBA")))


def psd_tools(path: pathlib.Path) -> Rgb:
    """psd-tools: the flattened image."""
    import psd_tools as library

    image = library.PSDImage.open(path).topil(apply_icc=False)
    return _over_white(np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB")))


def gdcm(path: pathlib.Path) -> Rgb:
    """DICOM by GDCM through SimpleITK, with the window that the file states."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    image = reader.Execute()
    samples = SimpleITK.GetArrayFromImage(image)
    samples = samples[0] if image.GetDimension() == 3 else samples
    if samples.dtype == np.uint8:
        return _over_white(samples)

    def number(tag: str) -> float:
        return float(image.GetMetaData(tag).split("\\")[0])

    centre, width = number("0028|1050"), number("0028|1051")
    levels = ((samples - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    return _over_white(np.rint(levels))


def mupdf(path: pathlib.Path) -> Rgb:
    """PDF by MuPDF, at 144 pixels to an inch."""
    import pymupdf

    with pymupdf.open(path) as document:
        drawn = document[0].get_pixmap(dpi=144, alpha=False, annots=True)
        return np.frombuffer(drawn.samples, np.uint8).reshape(drawn.height, drawn.width, 3)


def embedded_jpeg(path: pathlib.Path) -> Rgb:
    """Of camera raw: the largest JPEG in the file, found by its marks, not by LibRaw."""
    data, best, at = path.read_bytes(), None, 0
    while (at := data.find(b"\xff\xd8\xff", at)) >= 0:
        try:
            image = Image.open(io.BytesIO(data[at:]), formats=("JPEG",))
            if best is None or image.width > best.width:
                image.load()
                best = image
        except Exception:  # not the start of one
            pass
        at += 3
    if best is None:
        raise ValueError("no JPEG in it")
    return _over_white(np.asarray(best.convert("RGB")))


def rawler(path: pathlib.Path) -> Rgb:
    """Camera raw read by rawler, then developed in a few lines, as bright as LibRaw does."""
    import rawler_py

    with rawler_py.RawImage.open(str(path)) as raw:
        mosaic = np.asarray(raw.raw_data(), np.float64)
        black, white = np.mean(raw.blacklevel["levels"]), np.max(raw.whitelevel)
        pattern, gains = str(raw.cfa_pattern), np.asarray(raw.wb_coeffs, np.float64)[:3]
        matrix = np.reshape(next(reversed(raw.color_matrix.values())), (-1, 3))[:3]
    light = ((mosaic - black) / (white - black)).clip(0, 1)
    rows, columns = np.indices(light.shape)
    which = np.array(["RGB".index(letter) for letter in pattern[:4]])[rows % 2 * 2 + columns % 2]
    colours = np.stack([_spread(light, which == i) for i in range(3)], -1)
    if np.isfinite(gains).all():
        colours *= gains / gains.min()
    to_camera = matrix @ _SRGB
    to_camera /= to_camera.sum(1, keepdims=True)
    colours = (colours.clip(0, 1) @ np.linalg.inv(to_camera).T).clip(0, 1)
    colours /= max(np.percentile(colours[..., i], 99) for i in range(3))
    curve = np.where(colours < 0.018, colours * 4.5, 1.099 * colours.clip(0) ** 0.45 - 0.099)
    return np.rint(curve.clip(0, 1) * 255).astype(np.uint8)


_SRGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


def _spread(light: np.ndarray, there: np.ndarray) -> np.ndarray:
    """A colour of the mosaic at all pixels: what is there of it among the nearest, by distance."""
    sums = np.zeros((2, *light.shape))
    padded = np.pad(np.stack([light * there, there]), ((0, 0), (1, 1), (1, 1)), "reflect")
    height, width = light.shape
    for down, across in np.ndindex(3, 3):
        weight = (2 - abs(down - 1)) * (2 - abs(across - 1))
        sums += weight * padded[:, down : down + height, across : across + width]
    return sums[0] / sums[1]


# By format, the most independent first.
SECOND: dict[str, tuple[Callable[[pathlib.Path], Rgb], ...]] = {
    "JPEG": (ffmpeg, opencv), "PNG": (ffmpeg, opencv), "GIF": (ffmpeg, openimageio),
    "WEBP": (ffmpeg, opencv), "TIFF": (openimageio, opencv, ffmpeg),
    "BMP": (openimageio, ffmpeg, opencv),
    "AVIF": (opencv, ffmpeg), "JPEG2000": (ffmpeg, openimageio),
    "PPM": (ffmpeg, openimageio), "PAM": (ffmpeg,), "PFM": (opencv, ffmpeg),
    "TGA": (openimageio, ffmpeg), "PCX": (ffmpeg,), "ICO": (openimageio, ffmpeg),
    "QOI": (ffmpeg, pillow), "SGI": (openimageio, ffmpeg), "DDS": (openimageio, ffmpeg),
    "PSD": (psd_tools, openimageio, ffmpeg), "HEIF": (ffmpeg,), "JPEG XL": (pillow_jxl,),
    "HDR": (opencv, openimageio), "DICOM": (gdcm,), "PDF": (mupdf,),
}  # fmt: skip


def opinions(path: pathlib.Path, name: str) -> Iterator[tuple[str, Rgb]]:
    """(the library, its image) of each that reads the file."""
    for decoder in SECOND.get(name, (embedded_jpeg, rawler)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = decoder(path)
            except Exception:
                continue
        if image.min() != image.max():  # some answer black where they have no decoder
            yield decoder.__name__, image
