"""Camera raw beside the JPEG or HEIC of the same shot is marked: the column `raw_of`."""

import json
import tarfile

import pytest
from samples import photo, read_rows

from imagecensus.jobs.cli import main

RAW = b"II\x1a\x00\x00\x00HEAPCCDR, of no camera"


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "card"
    (folder / "other").mkdir(parents=True)
    for name in ("IMG_1.jpg", "IMG_3.JPEG", "other/IMG_2.jpg", "2020.01.02 a.jpg"):
        photo(1).save(folder / name, "JPEG")
    for name in ("IMG_1.CR2", "IMG_2.CR2", "IMG_3.nef", "IMG_4.DNG", "2020.01.02 a.ARW"):
        (folder / name).write_bytes(RAW)
    with tarfile.open(folder / "more.tar", "w") as tar:  # in no order
        for name in ("IMG_1.CR2", "IMG_3.nef", "IMG_4.DNG", "IMG_3.JPEG", "IMG_1.jpg"):
            tar.add(folder / name, f"b/{name}")
        tar.add(folder / "IMG_1.jpg", "c/IMG_4.jpg")
    return folder


def classify(archive, output, model, *flags):
    words = ["classify", str(archive), "--model", model, "--output", str(output), *flags]
    main([*words, "--no-report"])
    rows = read_rows(output).to_pylist()
    cut = len(str(archive)) + 1
    return {r["uri"][cut:]: r["raw_of"] and r["raw_of"][cut:] for r in rows}


PAIRS = {
    "IMG_1.CR2": "IMG_1.jpg",
    "IMG_3.nef": "IMG_3.JPEG",
    "2020.01.02 a.ARW": "2020.01.02 a.jpg",
    "more.tar#b/IMG_1.CR2": "more.tar#b/IMG_1.jpg",
    "more.tar#b/IMG_3.nef": "more.tar#b/IMG_3.JPEG",
}


def test_the_raw_of_a_pair_names_the_other_one(archive, tiny_model, tmp_path, capsys):
    found = classify(archive, tmp_path / "out", tiny_model)
    assert len(found) == 15 and {k: v for k, v in found.items() if v} == PAIRS
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert report["totals"]["raw_pairs"] == 5 and report["totals"]["balanced"]
    assert "5 raw files beside a JPEG or HEIC" in capsys.readouterr().out


def test_pairs_that_come_and_go_are_noticed_without_decoding(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(archive, output, tiny_model)
    photo(2).save(archive / "IMG_4.jpg")
    (archive / "IMG_1.jpg").unlink()
    found = classify(archive, output, tiny_model)
    assert found["IMG_4.DNG"] == "IMG_4.jpg" and found["IMG_1.CR2"] is None
    totals = json.loads((output / "run_report.json").read_text())["totals"]
    assert (totals["added"], totals["changed"], totals["updated"]) == (1, 0, 2)


def test_shards_find_pairs_of_which_another_has_the_jpeg(archive, tiny_model, tmp_path):
    for shard in ("0/3", "1/3", "2/3"):
        found = classify(archive, tmp_path / "out", tiny_model, "--shard", shard)
    assert {k: v for k, v in found.items() if v} == PAIRS


def test_a_list_column_of_that_name_takes_its_place(archive, tiny_model, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(f"uri,raw_of\n{archive}/IMG_1.CR2,mine\n{archive}/IMG_1.jpg,\n")
    main(["classify", str(listed), "--model", tiny_model, "--output", str(tmp_path / "out")])
    rows = {r["uri"].rsplit("/")[-1]: r for r in read_rows(tmp_path / "out").to_pylist()}
    assert rows["IMG_1.CR2"]["raw_of"] == "mine"


def test_a_dataset_begun_without_the_column_goes_on_without_it(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    one = ["classify", str(archive / "IMG_1.jpg"), "--model", tiny_model, "--output", str(output)]
    main(one)
    record = output / "_imagecensus" / "dataset.json"
    content = json.loads(record.read_text())
    del content["identity"]["columns"]["raw_of"]
    record.write_text(json.dumps(content))
    main([*one[:1], str(archive), *one[2:]])
    assert json.loads(record.read_text()) == content
