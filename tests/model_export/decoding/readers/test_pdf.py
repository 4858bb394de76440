"""PDF: pages as images, drawn alike on every machine; what is wrong with a file is its status."""

import io
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image
from samples import photo

from imagecensus.model_export.decoding import pages
from imagecensus.model_export.preprocess import ImageError, PreprocessSpec, decode_image

pytest.importorskip("pypdfium2")
SPEC = PreprocessSpec(height=64, width=64)
LOCKED = b"<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O (%s) /U (%s) >>" % (
    b"o" * 32,
    b"u" * 32,
)


def decode(data, page=0):
    out = np.zeros(SPEC.shape, np.uint8)
    return out, decode_image(pages.select(data, page) if page else data, SPEC, out)


def of_photos(*seeds) -> bytes:
    first, *others = (photo(seed, (160, 120)) for seed in seeds)
    file = io.BytesIO()
    first.save(file, "PDF", save_all=True, append_images=others, quality=95)
    return file.getvalue()


def written(content=b"", page=b"/MediaBox [0 0 144 72]", font=b"Helvetica", encrypt=b"") -> bytes:
    """A PDF of one page, written by hand."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R %s /Contents 4 0 R"
        b" /Resources << /Font << /F 5 0 R >> >> >>" % page,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /TrueType /BaseFont /%s >>" % font,
        *([encrypt] if encrypt else []),
    ]
    data, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, text)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    more = b"/Encrypt 6 0 R /ID [(a) (a)]" if encrypt else b""
    return data + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d"
        b"\n%%%%EOF\n" % (len(objects) + 1, table, len(objects) + 1, more, len(data))
    )


def status_of(data) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value.status


def test_pages_are_the_images_in_them():
    data = of_photos(1, 2, 3)
    assert pages.count(data) == 3
    for number in (0, 1, 2, 3):
        out, info = decode(data, number)
        assert (info.format, info.width, info.height) == ("PDF", 160, 120)
        assert info.pages == (1 if number else 3)
        alone = io.BytesIO()
        photo(max(number, 1), (160, 120)).save(alone, "PNG")
        assert np.abs(out.astype(int) - decode(alone.getvalue())[0]).mean() < 4
    with pytest.raises(ImageError, match="no page 4"):
        decode(data, 4)


def test_vectors_are_drawn_over_white_and_turned_as_the_page_says():
    red_left = b"1 0 0 rg 0 0 72 72 re f"
    out, info = decode(written(red_left))
    assert (info.width, info.height) == (144, 72)
    assert out[32, 8].tolist() == [255, 0, 0] and out[32, 56].tolist() == [255, 255, 255]
    out, info = decode(written(red_left, b"/MediaBox [0 0 144 72] /Rotate 90"))
    assert (info.width, info.height) == (72, 144)
    assert out[8, 32].tolist() == [255, 0, 0] and out[56, 32].tolist() == [255, 255, 255]


def test_fonts_of_the_machine_are_not_used():
    import pypdfium2

    from imagecensus.model_export.decoding.readers import pdf

    data = written(b"BT /F 30 Tf 4 30 Td (Narrow) Tj ET", font=b"LiberationSansNarrow")
    raw = pypdfium2.raw
    raw.FPDF_DestroyLibrary()
    raw.FPDF_InitLibraryWithConfig(raw.FPDF_LIBRARY_CONFIG(version=2))  # with the machine's fonts
    theirs = pypdfium2.PdfDocument(data)[0].render(scale=2).to_numpy().copy()
    pdf._pdfium.cache_clear()
    with pdf._opened(data) as file:
        ours = file[0].render(scale=2).to_numpy().copy()
    assert ours.min() < 128
    if list(pathlib.Path("/usr/share/fonts").rglob("LiberationSansNarrow-Regular.ttf")):
        assert np.abs(ours.astype(int) - theirs).mean() > 1


@pytest.mark.parametrize("box", [b"[0 0 12000 12000]", b"[0 0 14400 1]", b"[0 0 1 1]"])
def test_pages_of_any_shape_are_drawn_within_bounds(box):
    out, info = decode(written(b"0 1 0 rg 0 0 14400 14400 re f", b"/MediaBox " + box))
    assert out.reshape(-1, 3).mean(0).tolist() == [0, 255, 0] and info.format == "PDF"


def test_what_is_wrong_is_reported():
    data = of_photos(1)
    assert status_of(written(encrypt=LOCKED)) == "permission_denied"
    assert status_of(data[: len(data) // 2]) == status_of(data[:-30]) == "truncated"
    assert status_of(b"%PDF-1.4\n" + bytes(500) + b"%%EOF") == "decode_error"
    assert status_of(data.replace(b"/Kids", b"/Kods")) == "decode_error"


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    from imagecensus.model_export.decoding.readers import pdf

    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    pdf._pdfium.cache_clear()
    with pytest.raises(ImageError, match=r"imagecensus\[formats\]") as caught:
        decode(of_photos(1))
    assert caught.value.status == "unsupported_format" and caught.value.image_format == "PDF"
    monkeypatch.undo()
    decode(of_photos(1))


def test_images_of_profile_and_grey_are_read():
    file = io.BytesIO()
    Image.new("L", (40, 40), 77).save(file, "PDF", quality=95)
    assert np.abs(decode(file.getvalue())[0].astype(int) - 77).max() <= 2
