"""DICOM: files of pydicom's own tests that hold one image in several transfer syntaxes."""

import io
import pathlib
import re

import numpy as np
import pytest

from imagecensus.model_export.preprocess import ImageError, PreprocessSpec, decode_image

pydicom = pytest.importorskip("pydicom")
codecs = pytest.importorskip("imagecodecs")
FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"  # part of the package
SPEC = PreprocessSpec(height=64, width=64)


def decode(data):
    out = np.empty(SPEC.shape, np.uint8)
    decode_image(data, SPEC, out)
    return out.astype(int)


def read(name):
    return decode((FILES / name).read_bytes())


def made(samples, **tags) -> bytes:
    """A file of plain samples [H, W] or [H, W, 3]."""
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = samples.shape[:2]
    file.SamplesPerPixel = samples.shape[2] if samples.ndim == 3 else 1
    file.PhotometricInterpretation = "RGB" if samples.ndim == 3 else "MONOCHROME2"
    bits = samples.dtype.itemsize * 8
    file.BitsAllocated = file.BitsStored = bits
    file.HighBit, file.PixelRepresentation = bits - 1, int(samples.dtype.kind == "i")
    if samples.ndim == 3:
        file.PlanarConfiguration = 0
    file.PixelData = samples.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


RAMP = np.repeat(np.arange(64, dtype=np.int16)[None], 64, 0)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless", "MR_small_padded",
    ],
)  # fmt: skip
def test_lossless_syntaxes_have_the_same_pixels(name):
    np.testing.assert_array_equal(read(f"{name}.dcm"), read("MR_small.dcm"))


@pytest.mark.parametrize(
    "name", sorted(path.name for path in FILES.glob("SC_rgb_*.dcm") if "small" not in path.name
                   and not re.search("jpeg(_dcmd|_app14_dcmd)?.dcm$", path.name))
)  # fmt: skip
def test_colours_are_those_of_the_plain_file(name):
    """JPEG of each colour space and subsampling, JPEG-LS, JPEG 2000, run lengths."""
    plain = read("SC_rgb_rle.dcm")
    assert np.abs(read(name) - plain).mean() < 8


def test_near_lossless_jpeg_ls_of_16_bits():
    assert np.ptp(read("JPEGLSNearLossless_16.dcm")) == 255


def test_windows_slopes_and_inversion():
    shown = decode(made(RAMP, WindowCenter=32.5, WindowWidth=65))[0, :, 0]
    assert np.abs(shown - np.arange(64) / 64 * 255).max() <= 2
    narrow = decode(made(RAMP, WindowCenter=32, WindowWidth=16))[0, :, 0]
    assert (narrow[:20] == 0).all() and (narrow[44:] == 255).all()
    sloped = made(RAMP, WindowCenter=-936, WindowWidth=128, RescaleSlope=2, RescaleIntercept=-1000)
    assert np.abs(decode(sloped)[0, :, 0] - np.arange(64) / 64 * 255).max() <= 3
    without = decode(made(RAMP))[0, :, 0]  # from the smallest to the largest
    assert np.abs(without - np.arange(64) / 63 * 255).max() <= 1
    negative = decode(made(RAMP, PhotometricInterpretation="MONOCHROME1"))[0, :, 0]
    np.testing.assert_array_equal(negative, 255 - without)


def test_palettes():
    table = [(np.arange(256) * 256).astype("<u2").tobytes() for _ in range(3)]
    table[0] = bytes(512)  # no red
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, values in zip(("Red", "Green", "Blue"), table, strict=True):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = values
    out = decode(made(RAMP.astype(np.uint8) * 4, **tags))
    np.testing.assert_array_equal(out[0, :, 0], 0)
    np.testing.assert_array_equal(out[0, :, 1], np.arange(64) * 4)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("MR_truncated.dcm", "truncated"), ("rtplan.dcm", "unsupported_format"),
        ("ExplVR_LitEndNoMeta.dcm", "unsupported_format"), ("test-SR.dcm", "unsupported_format"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", "decode_error"),
    ],
)  # fmt: skip
def test_what_has_no_image_is_said_to_have_none(name, status):
    with pytest.raises(ImageError) as caught:
        read(name)
    assert (caught.value.status, caught.value.image_format) == (status, "DICOM")
