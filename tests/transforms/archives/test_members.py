"""Names of archives."""

import pytest

from imagecensus.transforms.archives.members import is_archive_name


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
