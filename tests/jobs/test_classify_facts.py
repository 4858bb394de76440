"""What a file says beside its pixels, as columns: camera, time, place, pages, hash of the bytes."""

import json
import shutil

import numpy as np
import pytest
import tifffile
import xxhash
from PIL import Image
from samples import photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.transforms.records import FACTS, GPS_FACTS, OUTPUT_COLUMNS


def camera_photo(path) -> None:
    """A JPEG as a phone writes it: south of Sydney, held upright."""
    image = photo(1, (64, 48))
    exif = image.getexif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Example", "Example Phone 3", 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 12:30:00"
    exif.get_ifd(0x8825).update({1: "S", 2: (34.0, 30.0, 0.0), 3: "E", 4: (150.0, 15.0, 36.0)})
    image.save(path, exif=exif)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    camera_photo(folder / "phone.jpg")
    photo(2).save(folder / "plain.png")
    shutil.copy(folder / "plain.png", folder / "copy.png")
    pages = [np.asarray(photo(seed)) for seed in (3, 4, 5)]
    with tifffile.TiffWriter(folder / "scan.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb")
    tifffile.imwrite(folder / "deep.tif", np.asarray(photo(6).convert("L")).astype("u2") << 4)
    (folder / "cut.jpg").write_bytes((folder / "phone.jpg").read_bytes()[:900])
    Image.new("L", (9, 9)).save(folder / "grey.gif")
    return folder


def classify(archive, output, model, *flags):
    words = ["classify", str(archive), "--model", model, "--output", str(output), *flags]
    main([*words, "--no-report"])
    rows = read_rows(output).to_pylist()
    return {row["uri"].rsplit("/")[-1]: row for row in rows}


def test_rows_say_what_the_files_do(archive, tiny_model, tmp_path, capsys):
    rows = classify(archive, tmp_path / "out", tiny_model)
    phone = {name: rows["phone.jpg"][name] for name in ("taken_at", "camera", "orientation")}
    assert phone == {
        "taken_at": "2024:05:01 12:30:00",
        "camera": "Example Phone 3",
        "orientation": 6,
    }
    assert {name: row["pages"] for name, row in rows.items()} == {
        "phone.jpg": 1, "plain.png": 1, "copy.png": 1, "scan.tif": 3, "deep.tif": 1,
        "cut.jpg": None, "grey.gif": 1,
    }  # fmt: skip
    assert rows["plain.png"]["orientation"] == 1 and rows["plain.png"]["camera"] is None
    for name, row in rows.items():
        assert row["xxh128"] == xxhash.xxh3_128_hexdigest((archive / name).read_bytes())
    assert rows["copy.png"]["xxh128"] == rows["plain.png"]["xxh128"]
    assert not set(GPS_FACTS) & set(rows["phone.jpg"])
    report = json.loads((tmp_path / "out" / "run_report.json").read_text())
    assert report["counters"]["images_with_more_pages"] == 1
    assert report["counters"]["images_depth_scaled"] == 1
    assert "1 file with more pages" in capsys.readouterr().out


def test_predict_says_the_same(archive, tiny_model, tmp_path, capsys):
    rows = classify(archive, tmp_path / "out", tiny_model, "--gps")
    capsys.readouterr()
    main(["predict", *(str(archive / n) for n in rows), "--json", "--gps", "--model", tiny_model])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for name, answer in zip(rows, answers, strict=True):
        assert {fact: answer[fact] for fact in (*FACTS, *GPS_FACTS)} == {
            fact: rows[name][fact] for fact in (*FACTS, *GPS_FACTS)
        }


def test_where_images_were_taken_is_kept_only_where_asked_for(archive, tiny_model, tmp_path):
    rows = classify(archive, tmp_path / "out", tiny_model, "--gps")
    assert rows["phone.jpg"]["latitude"] == pytest.approx(-34.5)
    assert rows["phone.jpg"]["longitude"] == pytest.approx(150.26)
    assert rows["plain.png"]["latitude"] is None
    # Without the flag, and the other way round, it would be another table.
    again = ["classify", str(archive), "--model", tiny_model, "--output", str(tmp_path / "out")]
    assert main(again) == 2


def test_a_list_column_of_such_a_name_takes_its_place(archive, tiny_model, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(f"uri,Camera\n{archive}/phone.jpg,borrowed\n")
    rows = classify(listed, tmp_path / "out", tiny_model)
    assert rows["phone.jpg"]["Camera"] == "borrowed" and "camera" not in rows["phone.jpg"]


def test_a_dataset_from_before_goes_on_without_them(archive, tiny_model, tmp_path):
    output = tmp_path / "out"
    classify(archive / "plain.png", output, tiny_model)
    # As such a dataset is: no facts in its record, nor in its parts.
    record = output / "_imagecensus" / "dataset.json"
    content = json.loads(record.read_text())
    del content["identity"]["facts"], content["identity"]["columns"]["raw_of"]
    shutil.rmtree(output / "predictions")
    record.write_text(json.dumps(content))
    rows = classify(archive, output, tiny_model)
    # The plan of the first run has a column more than such a dataset has.
    assert len(rows) == 7 and set(rows["phone.jpg"]) <= {*OUTPUT_COLUMNS, "raw_of"}


def test_rows_keep_them_when_failed_ones_are_tried_again(archive, tiny_model, tmp_path):
    before = classify(archive, tmp_path / "out", tiny_model, "--gps")
    after = classify(archive, tmp_path / "out", tiny_model, "--gps", "--retry-failed")
    assert after == before and after["phone.jpg"]["camera"] and after["cut.jpg"]["error"]
