"""Each command of docs/inputs.md runs as printed, over inputs of the names it uses."""

import json
import pathlib
import re
import shlex

import pytest
from bucket_emulator import emulated_bucket
from packing import pack
from samples import make_photos, photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.model_export.common import ignored_names
from imagecensus.transforms.archives import parquet_archive, tfrecord_archive
from imagecensus.transforms.archives.members import is_archive_name
from imagecensus.transforms.inputs import manifests

DOC = (pathlib.Path(__file__).parents[1] / "docs" / "inputs.md").read_text("utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", DOC, re.S) for line in block.splitlines()
]
ROWS = {  # how many images each command finds below
    "photos": 5, "photos/2019": 6, "gs": 7, "list.txt": 3, "photos.csv": 3, "photos.jsonl": 3,
    "shard-000.tar": 4, "shards/*.tar": 12, "gs-shards": 4, "flowers.tfrecord-*": 8,
    "data/train-*.parquet": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    top = tmp_path_factory.mktemp("doc")
    make_photos(top / "photos" / "2019", 4)
    photo(9).save(top / "photos" / "cover.jpg")
    (top / "scans" / "a").mkdir(parents=True)
    photo(1).save(top / "scans" / "a" / "1.tif")
    names = [f"photos/2019/0000{i}.jpg" for i in range(3)]
    (top / "list.txt").write_text("\n".join(names) + "\n")
    (top / "photos.csv").write_text("path,year\n" + "".join(f"{n},2019\n" for n in names))
    (top / "photos.jsonl").write_text("".join(json.dumps({"where": n}) + "\n" for n in names))
    files = [(path.name, path.read_bytes()) for path in sorted((top / "photos/2019").iterdir())]
    for folder in ("shards", "data"):
        (top / folder).mkdir()
    for name in ("shard-000.tar", "shards/0.tar", "shards/1.tar"):
        pack("tar", files, top / name)
    pack("zip", files, top / "more.zip")
    for i in range(2):
        pack("tfrecord", files, top / f"flowers.tfrecord-0000{i}-of-00002")
        pack("hf.parquet", files, top / f"data/train-0000{i}-of-00002.parquet")
    with emulated_bucket("my-bucket") as bucket:
        paths = [*top.glob("photos/**/*.jpg"), top / "scans/a/1.tif", top / "shards/0.tar"]
        for path in paths:
            bucket.blob(str(path.relative_to(top))).upload_from_filename(str(path))
        bucket.blob("photos-old/1.jpg").upload_from_string(files[0][1])
        bucket.blob("scans/2.tif").upload_from_filename(str(top / "scans/a/1.tif"))
        yield top


@pytest.mark.gcs
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_as_printed(command, place, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    program, *words = shlex.split(command)
    assert program == "imagecensus"
    words = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert main([*words, "--model", tiny_model]) == 0
    rows = read_rows(tmp_path / "out")
    assert set(rows.column("status").to_pylist()) == {"ok"}
    first = words[1].replace("gs://my-bucket/photos", "gs").replace("gs://my-bucket/", "gs-")
    assert rows.num_rows == ROWS[first.replace("gs-shards/*.tar", "gs-shards")]


def test_there_are_commands_for_every_section():
    assert len(COMMANDS) == len(ROWS)
    for section in re.split(r"^## ", DOC, flags=re.M)[1:]:
        assert "```sh" in section


def test_the_lists_are_those_of_the_code():
    def listed(before, names):
        found = DOC[re.search(before.replace(" ", r"\s+"), DOC).end() :]
        assert re.findall(r"`([^`]+)`", found)[: len(names)] == list(names)

    listed("`--uri-column`, else the first of", manifests.URI_COLUMNS)
    listed("calls an image, else the first of", parquet_archive.IMAGE_COLUMNS)
    listed("feature is `--image-column`, else the first of", tfrecord_archive.IMAGE_FEATURES)
    for name in ignored_names.FILES | ignored_names.FOLDERS:
        assert f"`{name}`" in DOC.lower()
    table = DOC[DOC.index("| kind |") :].split("\n\n")[0]
    for name in re.findall(r"`(\.[\w.-]+)`", table):
        assert name == ".gz" or is_archive_name("x" + name), name
