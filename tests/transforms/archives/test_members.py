"""Names of archives, and why they cannot be read."""

import errno
import gzip
import os
import zlib

import pytest

from imagecensus.transforms.archives.members import is_archive_name, reason_of


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a.tar", True), ("a.TGZ", True), ("a.tar.gz", True), ("a.zip", True), ("a.gz", False),
        ("x.tfrecord", True), ("x.tfrecords", True), ("x.tfrecord-00000-of-00008", True),
        ("x.tfrecord.gz", True), ("x.parquet", True), ("x.tar.bz2", True), ("tar", False),
        ("x.jpg", False), ("x.tar/y.jpg", False), ("x.tarjpg", False), ("", False),
    ],
)  # fmt: skip
def test_names_of_archives(name, is_one):
    assert is_archive_name(name) == is_one


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (gzip.BadGzipFile("Not a gzipped file (b'xx')"), "damaged: Not a gzipped file (b'xx')"),
        (zlib.error("Error -3 while decompressing"), "damaged: Error -3 while decompressing"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), os.strerror(errno.EIO)),
    ],
)
def test_damage_and_a_failing_disk_are_called_what_they_are(error, reason):
    assert reason_of(error) == reason
