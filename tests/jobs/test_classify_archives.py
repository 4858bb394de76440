"""Whole runs over packed archives: the same rows as over the loose files."""

import os
import pathlib
import signal
import subprocess

import pytest
from packing import KINDS, NAMED, pack
from samples import SHARED_DATA, make_photos, read_rows
from test_classify import classify, command, part_count, totals_of, wait_for

from imagecensus.jobs.results.thumbnails import Images, make_thumbnails

ROOT = pathlib.Path(__file__).parents[2]
SAYS = ["status", "label", "score", "top_k", "width", "height", "format", "bytes"]


def files_of(folder) -> list[tuple[str, bytes]]:
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in paths]


def rows_by_name(output, root) -> dict:
    rows = read_rows(output).to_pylist()
    return {row["uri"].removeprefix(root): {key: row[key] for key in SAYS} for row in rows}


@pytest.fixture(scope="module")
def loose(tmp_path_factory, tiny_model):
    """30 images and 2 broken ones in folders, and what a run over them says."""
    top = tmp_path_factory.mktemp("loose")
    make_photos(top / "in" / "a", 15)
    make_photos(top / "in" / "b", 15, first=15)
    (top / "in" / "a" / "broken.jpg").write_bytes(b"not an image")
    (top / "in" / "b" / "cut.jpg").write_bytes((top / "in" / "b" / "00020.jpg").read_bytes()[:300])
    classify(top / "in", model=tiny_model, output=top / "out")
    return files_of(top / "in"), rows_by_name(top / "out", f"{top}/in/")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_says_what_its_files_say(loose, tiny_model, tmp_path, kind):
    files, expected = loose
    path = pack(kind, files, tmp_path / f"x.{kind}")
    output = tmp_path / "out"
    assert classify(path, "--unit-images=10", model=tiny_model, output=output) == 0
    assert totals_of(output)["rows"] == 32 and part_count(output) == 4
    found = rows_by_name(output, f"{path}#")
    if kind not in NAMED:
        names = [name for name, _ in files]
        found = {names[int(number)]: row for number, row in found.items()}
    assert found == expected
    # What report and browse show is found through the plan.
    images = Images(str(output))
    uris = [row["uri"] for row in read_rows(output).to_pylist()]
    assert [images.read(uri) for uri in uris] == [
        dict(files)[uri.removeprefix(f"{path}#")]
        if kind in NAMED
        else files[int(uri.split("#")[1])][1]
        for uri in uris
    ]
    assert len(make_thumbnails(images, uris, 32)) == 30
    # A rerun lists it again and knows all of it.
    assert classify(path, "--unit-images=10", model=tiny_model, output=output) == 0
    assert totals_of(output)["already_listed"] == 32
    assert sorted(os.listdir(tmp_path)) == ["out", f"x.{kind}"]


def test_all_kinds_in_one_folder(loose, tiny_model, tmp_path):
    files, _ = loose
    (tmp_path / "in").mkdir()
    for kind in KINDS:
        pack(kind, files, tmp_path / "in" / f"x.{kind}")
    make_photos(tmp_path / "in" / "plain", 5)
    broken = tmp_path / "in" / "y.tar"
    broken.write_bytes((tmp_path / "in" / "x.tar").read_bytes()[:20_000])
    output = tmp_path / "out"
    # The cut archive could not be listed to its end: the table is complete, the exit code says so.
    words = (tmp_path / "in", "--unit-images=9")
    assert classify(*words, model=tiny_model, output=output, page=True) == 1
    rows = {row["uri"]: row for row in read_rows(output).to_pylist()}
    assert rows[str(broken)]["status"] == "truncated"
    in_y = sum(uri.startswith(f"{broken}#") for uri in rows)
    assert in_y > 0 and len(rows) == 32 * len(KINDS) + 5 + in_y + 1
    # What failed in a damaged archive is retried where it lies.
    assert classify(*words, "--retry-failed", model=tiny_model, output=output) == 1
    assert {r["uri"]: r for r in read_rows(output).to_pylist()}.keys() == rows.keys()


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "parquet"])
def test_a_run_killed_within_an_archive_resumes(tiny_model, tmp_path, kind):
    make_photos(tmp_path / "in", 40)
    files = [(f"{i}/{name}", data) for i in range(20) for name, data in files_of(tmp_path / "in")]
    path = pack(kind, files, tmp_path / f"x.{kind}")
    classify(path, "--unit-images=8", model=tiny_model, output=tmp_path / "whole")
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(path, tiny_model, output, "--unit-images=8"), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: part_count(output) >= 10)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 10 <= part_count(output) < 100
    stamps = {p: p.stat().st_mtime_ns for p in (output / "predictions").glob("part-*")}
    assert classify(path, "--unit-images=8", model=tiny_model, output=output) == 0
    assert read_rows(output).equals(read_rows(tmp_path / "whole"))
    assert totals_of(output)["rows"] == 800
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())


@pytest.mark.real_data
def test_real_photos_say_the_same_packed_and_loose(tiny_model, tmp_path):
    photos = SHARED_DATA / "flower_photos" / "test"
    files = files_of(photos)
    classify(photos, model=tiny_model, output=tmp_path / "loose")
    expected = rows_by_name(tmp_path / "loose", f"{photos}/")
    for kind in KINDS:
        path = pack(kind, files, tmp_path / f"x.{kind}")
        assert classify(path, model=tiny_model, output=tmp_path / kind) == 0
        found = rows_by_name(tmp_path / kind, f"{path}#")
        if kind not in NAMED:
            found = {files[int(number)][0]: row for number, row in found.items()}
        assert found == expected
