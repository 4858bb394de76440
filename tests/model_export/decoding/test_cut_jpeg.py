"""JPEGs that lack their end, where a run accepts them: what is there, and how much that is."""

import dataclasses
import io

import numpy as np
import pytest
from samples import photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.model_export.preprocess import ImageError, PreprocessSpec, decode_image

SPEC = PreprocessSpec(height=96, width=128, accept_truncated=0.2)
SIZES = [(128, 96), (1300, 1000)]  # the larger is decoded at reduced size


def encode(size, grey=False, quality=90, **options) -> bytes:
    image, buffer = photo(2, size), io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


def decode(data, spec=SPEC):
    out = np.empty(spec.shape, np.uint8)
    return decode_image(data, spec, out), out.astype(int)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_without_its_end_mark_is_all_there(size, grey, progressive):
    data = encode(size, grey, progressive=progressive)
    info, out = decode(data[:-2])
    assert info.share == 1
    np.testing.assert_array_equal(out, decode(data)[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options", [{}, {"grey": True}, {"quality": 30}, {"restart_marker_rows": 1}]
)
def test_whoever_accepts_nothing_gets_what_lacks_its_end_mark_alone(size, options):
    whole = encode(size, **options)
    default = dataclasses.replace(SPEC, accept_truncated=0)
    for data in (whole[:-1], whole[:-2]):
        info, out = decode(data, default)
        assert info.share == 1
        np.testing.assert_array_equal(out, decode(whole)[1])
    # One that lacks bits or scans has not all its pixels.
    half = len(whole) // 2
    progressive = encode(size, progressive=True, **options)
    scans = [at for at in range(len(progressive)) if progressive[at : at + 2] == b"\xff\xda"]
    for data in (
        *(whole[:-cut] for cut in (3, 4, 5, 8, 20, half)),
        *(progressive[:at] for at in scans[1:]),
        whole[:half] + bytes(3),
    ):
        with pytest.raises(ImageError) as caught:
            decode(data, default)
        assert caught.value.status == "truncated"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kept", [0.97, 0.7, 0.5])
def test_the_share_is_of_rows_that_are_as_in_the_whole_image(size, grey, kept):
    data = encode(size, grey)
    info, out = decode(data[: int(len(data) * kept)])
    step = 16 / size[1] + 0.2  # of blocks; and no part of an image takes as many bytes as another
    assert kept - step < info.share < kept + 0.12
    whole = decode(data)[1]
    rows = int(info.share * SPEC.height) - 2  # the resize sees a row or two further
    np.testing.assert_array_equal(out[:rows], whole[:rows])
    assert np.abs(out[-1] - 128).max() <= 2  # what is missing is grey


def test_less_than_asked_for_is_truncated():
    data = encode(SIZES[0])[:-800]
    strict = dataclasses.replace(SPEC, accept_truncated=0.99)
    with pytest.raises(ImageError) as caught:
        decode(data, strict)
    assert caught.value.status == "truncated" and "of its rows are there" in str(caught.value)
    assert decode(data)[0].share < 0.99


def test_a_progressive_jpeg_that_lacks_more_and_other_formats_stay_truncated():
    progressive, png = encode(SIZES[0], progressive=True), io.BytesIO()
    photo(2, SIZES[0]).save(png, "PNG")
    for data in (progressive[:-900], png.getvalue()[:-900]):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.status == "truncated"


def test_a_black_bottom_is_there():
    image, buffer = photo(2, (128, 96)), io.BytesIO()
    image.paste((0, 0, 0), (0, 40, 128, 96))
    image.save(buffer, "JPEG")
    assert decode(buffer.getvalue()[:-2])[0].share == 1


def test_models_do_not_carry_it():
    assert "accept_truncated" not in PreprocessSpec().to_json()


def test_classify_says_how_much_was_there(tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    data = encode((128, 96))
    (folder / "whole.jpg").write_bytes(data)
    (folder / "mark.jpg").write_bytes(data[:-2])
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    base = ["classify", str(folder), "--model", tiny_model, "--max-failure-rate=1", "--no-report"]
    main([*base, "--output", str(tmp_path / "a"), "--accept-truncated=0.98"])
    main([*base, "--output", str(tmp_path / "b")])
    taken = {row["uri"].rsplit("/")[-1]: row for row in read_rows(tmp_path / "a").to_pylist()}
    assert {name: (row["status"], row["share"]) for name, row in taken.items()} == {
        "whole.jpg": ("ok", 1.0), "mark.jpg": ("ok", 1.0), "half.jpg": ("truncated", None),
    }  # fmt: skip
    assert taken["mark.jpg"]["top_k"] == taken["whole.jpg"]["top_k"]
    usual = {row["uri"].rsplit("/")[-1]: row for row in read_rows(tmp_path / "b").to_pylist()}
    assert usual["half.jpg"]["status"] == "truncated" and "share" not in usual["mark.jpg"]
    assert usual["mark.jpg"]["top_k"] == usual["whole.jpg"]["top_k"]
    # Another set of images would be taken: another table.
    assert main([*base, "--output", str(tmp_path / "b"), "--accept-truncated=0.98"]) == 2


@pytest.mark.parametrize("size", [(128, 96), (500, 375)])
@pytest.mark.parametrize("filled", [b"\0", b"\xff", b" "])
@pytest.mark.parametrize("options", [{"quality": 97, "subsampling": 0}, {"quality": 95}, {}])
def test_a_file_whose_end_was_never_written_is_truncated(size, filled, options):
    """Zeros in place of the rest are blocks to libjpeg, which does not object to them."""
    whole = encode(size, **{"quality": 75, **options})
    default = dataclasses.replace(SPEC, accept_truncated=0)
    blocks = whole.find(b"\xff\xda") + 20
    for percent in range(5, 100, 10):
        there = whole[: blocks + (len(whole) - blocks) * percent // 100]
        with pytest.raises(ImageError) as caught:
            decode(there + filled * (len(whole) - len(there)), default)
        assert caught.value.status in ("truncated", "decode_error")
        assert caught.value.status == "truncated" or filled == b" "
    for behind in (b"\0" * 5000, b"\n", b"\xff\xd8 another file"):
        info, out = decode(whole + behind, default)
        assert info.share == 1
        np.testing.assert_array_equal(out, decode(whole)[1])
