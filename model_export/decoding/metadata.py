"""What a camera wrote into EXIF: the orientation, when, with what, and where."""

from __future__ import annotations

import dataclasses

from PIL import Image

from imagecensus.model_export.decoding.exif_block import ORIENTATION, ExifBlock

Exif = Image.Exif | ExifBlock
_MAKE, _MODEL, _DATE_TIME = 0x010F, 0x0110, 0x0132
_EXIF, _GPS, _DATE_TIME_ORIGINAL = 0x8769, 0x8825, 0x9003
_LONGEST = 100  # characters of a text that becomes a cell


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraFacts:
    """`taken_at` and `camera` as written, without conversion; degrees, south and west negative."""

    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


NOTHING = CameraFacts()


def read_orientation(exif: Exif | None) -> int:
    """1 to 8; 1 where there is none or a damaged one, which is no reason to lose an image."""
    try:
        value = int(exif.get(ORIENTATION, 1)) if exif else 1
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def read_camera(exif: Exif | None, gps: bool = False) -> CameraFacts:
    """What is there and can be read; never raises."""
    if not exif:
        return NOTHING
    try:
        more = exif.get_ifd(_EXIF) if _EXIF in exif else {}
        taken = _text(more.get(_DATE_TIME_ORIGINAL)) or _text(exif.get(_DATE_TIME))
        make, model = _text(exif.get(_MAKE)) or "", _text(exif.get(_MODEL)) or ""
        brand = make.split(" ")[0].lower()
        camera = model if brand and model.lower().startswith(brand) else f"{make} {model}".strip()
        latitude, longitude = _position(exif) if gps else (None, None)
    except Exception:
        return NOTHING
    return CameraFacts(
        taken_at=taken, camera=camera or None, latitude=latitude, longitude=longitude
    )


def exif_of(blob: bytes | None, xmp: bytes | None = None) -> ExifBlock | None:
    """EXIF from its bytes, with or without the `Exif` in front; None where it is damaged."""
    if not blob and not xmp:
        return None
    try:
        return ExifBlock(blob or b"", xmp or b"")
    except ValueError:
        return None


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    text = value.split("\x00")[0]
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    text = text.strip()[:_LONGEST]
    # Cameras whose clock was never set write blanks or zeros in the date's places.
    return text if text.strip(" :0") else None


def _position(exif: Exif) -> tuple[float | None, float | None]:
    gps = exif.get_ifd(_GPS) if _GPS in exif else {}
    if not all(tag in gps for tag in (1, 2, 3, 4)):
        return None, None
    latitude = _degrees(gps[2]) * (-1 if str(gps[1]).upper().startswith("S") else 1)
    longitude = _degrees(gps[4]) * (-1 if str(gps[3]).upper().startswith("W") else 1)
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):  # also where one is not a number
        return None, None
    return latitude, longitude


def _degrees(value: tuple[float, ...]) -> float:
    degrees, minutes, seconds = (float(part) for part in (*value, 0, 0)[:3])
    return degrees + minutes / 60 + seconds / 3600
