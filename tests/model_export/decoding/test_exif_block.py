"""EXIF straight from its bytes says what Pillow says, and nothing that is damaged raises."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image
from samples import photo

from imagecensus.model_export.decoding.exif_block import ExifBlock
from imagecensus.model_export.decoding.metadata import exif_of, read_camera, read_orientation
from imagecensus.model_export.preprocess import PreprocessSpec, decode_image


def pillow_exif(seed: int) -> Image.Exif:
    """EXIF as some camera might write it; the seed decides what there is of it."""
    chance = random.Random(seed)
    exif = Image.Exif()
    some = {
        0x010F: ["Canon", "NIKON CORPORATION", "\0\0", "Leica\0junk", "Ünïcode"],
        0x0110: ["Canon EOS 5D", "Model 3", "", "x" * 300],
        0x0112: [1, 3, 6, 8, 0, 9, 65535],
        0x0132: ["2020:01:02 03:04:05", "0000:00:00 00:00:00", "    :  :     :  :  "],
        0x011A: [72.0],
        0x9C9B: [b"t\0i\0t\0l\0e\0\0\0"],
    }
    for tag, values in some.items():
        if chance.random() < 0.8:
            exif[tag] = chance.choice(values)
    more = exif.get_ifd(0x8769)
    if chance.random() < 0.8:
        more[0x927C], more[0x829A] = chance.randbytes(900), 0.01
        more[0x9003] = chance.choice(["2024:05:01 12:30:00", "", "0000:00:00 00:00:00"])
    gps = exif.get_ifd(0x8825)
    if chance.random() < 0.7:
        gps.update({1: chance.choice("NS"), 2: (34.0, 30.5, chance.choice([0.0, 59.99]))})
        gps.update({3: chance.choice("EW"), 4: (150.0, 15.0, 36.0), 7: (12.0, 0.0, 1.0)})
    return exif


def both_orders(exif: Image.Exif):
    for order in ("<", ">"):
        exif.endian = order
        yield exif.tobytes()


@pytest.mark.parametrize("seed", range(60))
def test_it_says_what_pillow_says(seed):
    for blob in both_orders(pillow_exif(seed)):
        theirs = Image.Exif()
        theirs.load(blob)
        ours = exif_of(blob)
        assert read_orientation(ours) == read_orientation(theirs)
        for gps in (False, True):
            assert read_camera(ours, gps) == read_camera(theirs, gps)


def test_nothing_that_is_damaged_raises():
    chance = random.Random(1)
    for seed in range(40):
        for blob in both_orders(pillow_exif(seed)):
            for _ in range(50):
                data = bytearray(blob[: chance.randrange(len(blob) + 1)])
                for _ in range(min(len(data), chance.randrange(6))):
                    data[chance.randrange(len(data))] = chance.choice((0, 1, 255, 128))
                exif = exif_of(bytes(data))
                assert 1 <= read_orientation(exif) <= 8
                read_camera(exif, gps=True)


@pytest.mark.parametrize("kind", range(14))
def test_values_of_any_kind_and_count(kind):
    for count in (0, 1, 2, 1 << 31):
        entry = struct.pack("<HHII", 0x0112, kind, count, 6)
        blob = b"II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
        assert 1 <= read_orientation(exif_of(blob)) <= 8
        read_camera(exif_of(blob), gps=True)


def test_xmp_tells_the_orientation_where_exif_does_not():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    spec = PreprocessSpec(height=64, width=64)
    for exif, expected in ((None, 6), (3, 3)):
        said = Image.Exif()
        if exif:
            said[0x0112] = exif
        file = io.BytesIO()
        photo(1).save(file, "JPEG", xmp=xmp, **({"exif": said} if exif else {}))
        out = np.empty(spec.shape, np.uint8)
        assert decode_image(file.getvalue(), spec, out).orientation == expected
    assert ExifBlock().get(0x0112, 1) == 1
