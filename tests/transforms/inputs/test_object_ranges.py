"""Objects listed by ranges of names into files: the rows of a listing here, each once."""

from __future__ import annotations

import datetime
import functools
import pathlib
import re
import sys

import obstore
import pyarrow.parquet as pq
import pytest

from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.inputs import object_ranges
from imagecensus.transforms.inputs.files import InputError
from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import list_images, may_be_opened
from imagecensus.transforms.records import CHECKSUM_COLUMN, REF_SCHEMA
from imagecensus.transforms.storage import gcs_listing, locations, objects

sys.path.append(str(pathlib.Path(__file__).parents[1] / "storage"))
from test_listing_ranges import NAMES, Bucket, Objects

EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


class Blob(dict):
    """An object as both clients tell of it."""

    generation, size, updated, md5_hash, crc32c = 7, 1, None, "abcdefghijkl", None

    def __init__(self, name):
        super().__init__(path=name, size=1, e_tag='"7"', last_modified=EPOCH)
        self.name = name


class Google(Bucket):
    def list_pages(self, *arguments, **options):
        for names, folders in super().list_pages(*arguments, **options):
            yield [Blob(found.name) for found in names], folders


class S3(Objects):
    def list(self, *arguments, **options):
        pages = super().list(*arguments, **options)
        return ([Blob(found["path"]) for found in page] for page in pages)


@pytest.fixture(params=["gs", "s3"])
def root(request):
    return f"{request.param}://b/"


def use(monkeypatch, root, names):
    bucket = (Google if root.startswith("gs") else S3)(names)
    if root.startswith("gs"):
        monkeypatch.setattr(gcs_listing, "list_pages", bucket.list_pages)
    else:
        monkeypatch.setattr(obstore, "list", bucket.list)
        monkeypatch.setattr(objects, "_client_of", lambda uri: None)
    return bucket


def rows_of(batches) -> list[tuple]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    columns = (*REF_SCHEMA.names, CHECKSUM_COLUMN)
    return sorted(tuple(row.get(name) or "" for name in columns) for row in rows)


def list_here(text, **patterns):
    selection = Selection(**patterns)
    return rows_of(list_images((text,), selection=selection)), +selection.left_out


def list_by_workers(text, folder, most=20, **patterns):
    """As workers do it, one after the other."""
    selection = Selection(**patterns)
    spool = object_ranges.Spool(
        start=f"{folder}/listing-", exclude=selection.exclude, include=selection.include,
        is_opened=functools.partial(may_be_opened, all_pages=False),
    )  # fmt: skip
    groups = object_ranges.cut_input(text)
    todo = list(groups)
    while todo:
        todo = [rest for group in todo for rest in object_ranges.list_group(group, spool, most)]

    def listed(text):
        return object_ranges.read_groups(text, groups, spool, selection)

    return rows_of(
        list_images((text,), selection=selection, by_workers=listed)
    ), +selection.left_out


COMPANIONS = [f"photos/{n:04d}{rest}" for n in range(150) for rest in (".jpg", ".json", ".jpg.xmp")]
MIXED = [
    *COMPANIONS, *[f"photos/dir/{n}.jpg" for n in range(40)], "photos/.hidden.jpg", "photos/dir/",
    "photos/census/_imagecensus/dataset.json", "photos/census/predictions/part-0.parquet",
    *[f"photos/census/predictions/part-{n}.jpg" for n in range(60)], "photos/censuses/1.jpg",
    "photos/@eaDir/1.jpg", "photos/Thumbs.db", "photosn/1.jpg",
]  # fmt: skip
# Outputs of which one range has the marker, and a range that is listed before it is the rest.
PARTS = [f"predictions/part-{n:03x}.bin" for n in range(200)]
BOOKS = ["_imagecensus/dataset.json", "run_report.json", "gone-s0of2.csv", "report.html"]
SPLIT = {
    "few books": [
        *[f"photos/a{n:04d}.jpg" for n in range(100)], "photos/a1/report.html",
        *[f"photos/census/{name}" for name in [BOOKS[0], *PARTS]],
    ],
    "nothing else": [f"photos/census/{name}" for name in [*PARTS, *BOOKS]],
    "the input is one": ["photos/1.jpg", *[f"photos/{name}" for name in [*PARTS, *BOOKS]]],
}  # fmt: skip


@pytest.mark.parametrize("kind", SPLIT)
def test_an_output_inside_is_left_out_wherever_ranges_are_cut(monkeypatch, root, kind, tmp_path):
    use(monkeypatch, root, SPLIT[kind])
    here = list_here(f"{root}photos/")
    left = {"few books": 101, "nothing else": 0, "the input is one": 1}
    assert len(here[0]) == left[kind] and here[1] == {"own": 1}
    for most in (0, 1, 20):
        assert list_by_workers(f"{root}photos/", tmp_path, most) == here


@pytest.mark.parametrize("kind", [*NAMES, "companions", "mixed"])
@pytest.mark.parametrize("most", [0, 1, 20])
def test_rows_are_those_of_a_listing_here(monkeypatch, root, kind, most, tmp_path):
    names = {**NAMES, "companions": COMPANIONS, "mixed": MIXED}[kind]
    use(monkeypatch, root, [*names, "photo", "photos0", "other/1"])
    for text in (f"{root}photos/", f"{root}photos/*[0-3].jpg", root):
        try:
            here = list_here(text)
        except InputError as error:
            with pytest.raises(InputError, match=re.escape(str(error))):
                list_by_workers(text, tmp_path, most)
        else:
            assert list_by_workers(text, tmp_path, most) == here


def test_patterns_are_kept(monkeypatch, root, tmp_path):
    # What lies in an output is counted as one, or by patterns where another range tells of it.
    use(monkeypatch, root, [name for name in MIXED if "census" not in name])
    for patterns in ({"include": ("dir/*",)}, {"exclude": ("*7.jpg", "dir")}):
        here = list_here(f"{root}photos/", **patterns)
        assert here[0] and here[1]["excluded"]
        assert list_by_workers(f"{root}photos/", tmp_path, **patterns) == here


def test_a_full_range_is_cut_again(monkeypatch, root, tmp_path):
    names = [
        f"photos/{kind}/{n:05d}.jpg" for kind, count in (("a", 3), ("b", 900)) for n in range(count)
    ]
    use(monkeypatch, root, names)
    rows, _ = list_by_workers(f"{root}photos/", tmp_path, 20)
    assert [row[0] for row in rows] == [root + name for name in sorted(names)]
    sizes = [pq.read_metadata(path).num_rows for path in tmp_path.glob("listing-*")]
    assert max(sizes) < 400 and len(sizes) > 4


def test_a_file_that_is_missing_ends_the_reading(monkeypatch, root, tmp_path):
    use(monkeypatch, root, NAMES["hashes"])
    list_by_workers(f"{root}photos/", tmp_path)
    spool = object_ranges.Spool(
        start=f"{tmp_path}/listing-", exclude=(), include=(), is_opened=bool
    )
    groups = object_ranges.cut_input(f"{root}photos/")
    (tmp_path / f"listing-{groups[0].name}.parquet").unlink()
    with pytest.raises(UserError, match="what a worker listed is not there"):
        list(object_ranges.read_groups(f"{root}photos/", groups, spool, Selection()))


def test_companions_are_left_out_wherever_pages_end(monkeypatch, root):
    """Pages of ten end between an image and its sidecar; ranges are listed page by page in turn."""
    use(monkeypatch, root, COMPANIONS)
    rows, left_out = list_here(f"{root}photos/")
    assert [row[0][-4:] for row in rows] == [".jpg"] * 150
    assert left_out == {"sidecars": 300}


def test_what_is_listed_by_ranges():
    assert all(map(locations.lists_ranges, ("gs://b/p", "s3://b/p/", "s3a://b/")))
    for other in ("s3://b--x-s3/p/", "az://b/p/", "hf://datasets/a/b", "/photos", "https://h/p"):
        assert not locations.lists_ranges(other)
