"""Colour: every mode of Pillow as L or RGB over white, and ICC profiles as sRGB."""

from __future__ import annotations

import contextlib
import functools
import io

from PIL import Image, ImageCms

from imagecensus.model_export.decoding import matrix_profile
from imagecensus.model_export.decoding.matrix_profile import Convert

_CACHED_PROFILES = 64
_PCS = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}


def flatten(image: Image.Image, icc: bytes | None = None) -> Image.Image:
    """Mode L or RGB of an 8-bit image: CMYK converted, palettes expanded, alpha over white.

    `icc` is used for CMYK only; `to_srgb` does the others, on the image that was made small.
    """
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if mode == "La":
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if mode == "CMYK" and icc:
        return to_srgb(image, icc).convert("RGB")
    if mode == "LAB":
        return _lab_to_srgb(image)
    return image.convert("L" if mode == "1" else "RGB")


def to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """The image converted from the profile; as it is where the profile is damaged or not its own.

    `image` is L, RGB or CMYK. The same profile is parsed once.
    """
    found = _transforms(icc)
    if found is None:
        return image
    mode, transform = found
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if transform is None or mode != image.mode:
        return image
    return transform(image)


def is_srgb(icc: bytes) -> bool:
    """Whether the profile changes nothing (or cannot be used)."""
    found = _transforms(icc)
    return found is None or found[1] is None


@functools.lru_cache(_CACHED_PROFILES)
def _transforms(icc: bytes) -> tuple[str, Convert | None] | None:
    """(mode that it is for, converter or None for sRGB), or None for a profile of no use."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = _PCS[profile.profile.xcolor_space.strip()]
        if mode == "RGB" and "srgb" in (profile.profile.profile_description or "").lower():
            return mode, None
        srgb = ImageCms.createProfile("sRGB")
        # Perceptual is what browsers do; black point compensation makes matrix profiles exact.
        built = ImageCms.buildTransform(profile, srgb, mode, "L" if mode == "L" else "RGB")
    except Exception:  # lcms and Pillow raise a dozen types over damaged profiles
        return None

    def by_lcms(image: Image.Image) -> Image.Image:
        return ImageCms.applyTransform(image, built) or image

    faster = None
    if mode == "RGB":
        if matrix_profile.changes_nothing(by_lcms):  # sRGB under another name
            return mode, None
        with contextlib.suppress(Exception):  # what lcms made of the profile stands
            faster = matrix_profile.make_converter(profile, icc, by_lcms)
    return mode, faster or by_lcms


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def _lab_to_srgb(image: Image.Image) -> Image.Image:
    return ImageCms.applyTransform(image, _lab_transform()) or image
