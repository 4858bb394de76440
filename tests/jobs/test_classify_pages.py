"""`classify --pages all`: each page or frame is a row."""

import json
import shutil

import packing
import pytest
from samples import photo, read_rows

from imagecensus.jobs.cli import main


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    for name in ("scan.tif", "moving.gif", "moving.png"):
        first, *others = (photo(seed) for seed in range(3))
        first.save(inside / name, save_all=True, append_images=others)
    for name in ("one.tif", "one.png", "one.jpg"):
        photo(0).save(inside / name)
    return inside


def rows_of(output) -> dict:
    return {row["uri"].rpartition("/")[2]: row for row in read_rows(output).to_pylist()}


def test_the_first_page_is_the_default_and_the_report_says_so(tiny_model, folder, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["classify", str(folder), "--model", tiny_model, "--output", str(output)]) == 0
    rows = rows_of(output)
    assert len(rows) == 6 and rows["scan.tif"]["pages"] == 3
    assert "3 files with more pages" in capsys.readouterr().out
    report = json.loads((output / "run_report.json").read_text())
    assert report["counters"]["images_with_more_pages"] == 3


def test_all_pages_are_rows(tiny_model, folder, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["classify", str(folder), "--model", tiny_model, "--output", str(output)]
    assert main([*command, "--pages", "all"]) == 0
    rows = rows_of(output)
    paged = {f"{name}#page={n}" for name in ("scan.tif", "moving.gif", "moving.png")
             for n in (1, 2, 3)}  # fmt: skip
    assert set(rows) == paged | {"one.tif", "one.png", "one.jpg"}
    assert all(row["status"] == "ok" for row in rows.values())
    scan = folder / "scan.tif"
    assert {row["bytes"] for uri, row in rows.items() if "scan.tif" in uri} == {scan.stat().st_size}
    # A page is the image that it holds: as that image alone.
    photo(2).save(tmp_path / "third.png")
    capsys.readouterr()
    uri = f"{scan}#page=3"
    assert main(["predict", uri, str(tmp_path / "third.png"), "--model", tiny_model, "--json"]) == 0
    page, alone = map(json.loads, capsys.readouterr().out.splitlines())
    assert page["top_k"] == alone["top_k"] == rows["scan.tif#page=3"]["top_k"]
    # Run again, nothing is new.
    assert main([*command, "--pages", "all"]) == 0
    assert "12 known" in capsys.readouterr().out


def test_a_table_that_saw_first_pages_goes_on_with_all(tiny_model, folder, tmp_path, capsys):
    output = tmp_path / "out"
    command = ["classify", str(folder), "--model", tiny_model, "--output", str(output)]
    command += ["--no-report"]
    assert main(command) == 0
    assert main([*command, "--pages", "all", "--drop-gone"]) == 0
    assert len(rows_of(output)) == 12


def test_lists_name_pages(tiny_model, folder, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{folder}/scan.tif#page=2\n{folder}/scan.tif#page=9\n")
    output = tmp_path / "out"
    main(["classify", str(listed), "--model", tiny_model, "--output", str(output)])
    rows = rows_of(output)
    assert rows["scan.tif#page=2"]["status"] == "ok"
    assert rows["scan.tif#page=9"]["status"] != "ok"


@pytest.mark.parametrize("kind", ["tar", "gztar", "zip"])
def test_all_pages_of_members_are_rows(tiny_model, folder, tmp_path, capsys, kind):
    alone = tmp_path / "alone"
    main(["classify", str(folder), "--model", tiny_model, "--output", str(alone), "--pages", "all"])
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, folder)
    output = tmp_path / "out"
    command = ["classify", archive, "--model", tiny_model, "--output", str(output), "--pages"]
    assert main([*command, "all"]) == 0
    rows = {row["uri"].partition("#")[2]: row for row in read_rows(output).to_pylist()}
    same = {name: row["top_k"] for name, row in rows_of(alone).items()}
    assert {name: row["top_k"] for name, row in rows.items()} == same and len(rows) == 12
    assert rows["scan.tif#page=2"]["bytes"] == (folder / "scan.tif").stat().st_size
    capsys.readouterr()
    assert main([*command, "all"]) == 0
    assert "12 known" in capsys.readouterr().out
    # The uri of a page is taken back, and a page that is not there is said so.
    pages = [f"{archive}#scan.tif#page={number}" for number in (2, 9)]
    main(["predict", *pages, "--model", tiny_model, "--json"])
    there, not_there = map(json.loads, capsys.readouterr().out.splitlines())
    assert there["top_k"] == rows["scan.tif#page=2"]["top_k"]
    assert not_there["status"] == "decode_error" and "no page 9" in not_there["error"]


@pytest.mark.parametrize("kind", ["parquet", "tfrecord", "tfrecord.gz"])
def test_all_pages_of_rows_are_rows(tiny_model, folder, tmp_path, capsys, kind):
    files = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    table = str(packing.pack(kind, files, tmp_path / f"packed.{kind}"))
    alone = tmp_path / "alone"
    main(["classify", str(folder), "--model", tiny_model, "--output", str(alone), "--pages", "all"])
    numbers = {str(number): name for number, (name, _) in enumerate(files)}
    output = tmp_path / "out"
    command = ["classify", table, "--model", tiny_model, "--output", str(output), "--pages", "all"]
    assert main(command) == 0
    rows = {}
    for row in read_rows(output).to_pylist():
        number, mark, page = row["uri"].partition("#")[2].partition("#")
        rows[numbers[number] + mark + page] = row
    columns = ("top_k", "status", "width", "height", "format", "pages", "bytes")
    assert {name: [row[column] for column in columns] for name, row in rows.items()} == {
        name: [row[column] for column in columns] for name, row in rows_of(alone).items()
    }
    assert len(rows) == 12
    capsys.readouterr()
    assert main(command) == 0
    assert "12 known" in capsys.readouterr().out


def test_patterns_choose_members_by_their_names_and_not_their_pages(tiny_model, folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "packed"), "tar", folder)
    output = tmp_path / "out"
    command = ["classify", archive, "--model", tiny_model, "--output", str(output), "--no-report"]
    assert main([*command, "--pages", "all", "--include", "*.tif"]) == 0
    names = {row["uri"].partition("#")[2] for row in read_rows(output).to_pylist()}
    assert names == {*(f"scan.tif#page={n}" for n in (1, 2, 3)), "one.tif"}


def test_a_member_named_like_a_page_is_another_row(tiny_model, folder, tmp_path):
    photo(7).save(folder / "scan.tif#page=1", "PNG")
    archive = shutil.make_archive(str(tmp_path / "packed"), "tar", folder)
    output = tmp_path / "out"
    command = ["classify", archive, "--model", tiny_model, "--output", str(output), "--no-report"]
    assert main([*command, "--pages", "all"]) == 0
    assert read_rows(output).num_rows == 13


def test_a_damaged_member_is_one_row(tiny_model, tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    first, *others = (photo(seed) for seed in range(3))
    first.save(inside / "scan.tif", save_all=True, append_images=others)
    data = (inside / "scan.tif").read_bytes()
    (inside / "cut.tif").write_bytes(data[:500])
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", inside)
    packed = bytearray((tmp_path / "packed.zip").read_bytes())
    at = packed.index(b"scan.tif") + 200
    packed[at : at + 40] = bytes(40)
    (tmp_path / "packed.zip").write_bytes(packed)
    output = tmp_path / "out"
    command = ["classify", archive, "--model", tiny_model, "--output", str(output), "--no-report"]
    main([*command, "--pages", "all"])
    status = {row["uri"].partition("#")[2]: row["status"] for row in read_rows(output).to_pylist()}
    assert set(status) == {"scan.tif", "cut.tif"} and "ok" not in status.values()
