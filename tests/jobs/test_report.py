"""The report page: its figures, its bounds, and that nothing in a table can become markup."""

import dataclasses
import json
import os
import re
import zlib
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packing import pack
from samples import make_photos, photo
from tables import HOSTILE, row, write_run_report, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.report import STATUS_MEANING, clip, pieces, write_report
from imagecensus.jobs.results import thumbnails
from imagecensus.jobs.results.open_table import open_table, read_bytes, read_json, write_bytes
from imagecensus.jobs.results.queries import (
    check_totals,
    count_labels,
    count_scores,
    measure_rate,
    pick_failures,
    pick_random,
    pick_sheets,
)
from imagecensus.model_export import preprocess
from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.records import Status

POISON = str(Path(__file__).parents[1] / "poison")


@pytest.fixture
def photos_table(tmp_path):
    """24 photos that exist in two labels, and two failures."""
    paths = make_photos(tmp_path / "photos", 24)
    rows = [
        row(path, [("cat" if i % 3 else "dog", 0.5 + i / 50), ("cow", 0.01)])
        for i, path in enumerate(paths)
    ]
    rows.append(row("/gone.jpg", status="not_found", error="there is no such file any more"))
    rows.append(row("/cut.jpg", status="truncated", error="image file is truncated"))
    output = write_table(tmp_path / "out", rows, parts=5)
    write_run_report(output, 26)
    return output


def test_every_status_is_explained():
    assert set(STATUS_MEANING) == {status.value for status in Status}


def test_counts_labels_scores_and_failures(photos_table):
    with open_table(photos_table) as table:
        labels, total = count_labels(table)
        assert [(entry["label"], entry["count"]) for entry in labels] == [("cat", 16), ("dog", 8)]
        assert total == 2
        scores = count_scores(table, 10)
        assert sum(scores) == 24 and sum(scores[:5]) == 0
        failures = pick_failures(table, 3)
        assert {(f["status"], f["count"]) for f in failures} == {("not_found", 1), ("truncated", 1)}
        assert failures[0]["examples"][0]["error"]


def test_sheets_hold_the_most_and_least_certain_of_each_label(photos_table):
    with open_table(photos_table) as table:
        sheets = pick_sheets(table, labels=1, examples=3)
        everything = table.query("SELECT score, uri FROM predictions WHERE label = 'cat'")
    assert [sheet["label"] for sheet in sheets] == ["cat"]
    ranked = [uri for _, uri in sorted(everything, reverse=True)]
    assert [tile["uri"] for tile in sheets[0]["most"]] == ranked[:3]
    assert [tile["uri"] for tile in sheets[0]["least"]] == ranked[::-1][:3]


def test_the_random_sample_does_not_depend_on_the_parts(tmp_path):
    rows = [row(f"/{i}.jpg") for i in range(100)]
    samples = []
    for parts in (1, 7):
        with open_table(write_table(tmp_path / str(parts), rows, parts)) as table:
            samples.append(pick_random(table, 10))
    assert samples[0] == samples[1] and len(samples[0]) == 10


def test_the_page_has_thumbnails_totals_and_no_script(photos_table):
    path = write_report(photos_table)
    page = Path(path).read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") > 20
    assert "The totals balance: 26 listed = 24 predicted + 2 failed." in page
    assert "<script" not in page and ' src="http' not in page
    assert "default-src 'none'" in page
    assert not [name for name in os.listdir(photos_table) if name.startswith(".tmp")]


def test_the_same_table_gives_the_same_page(photos_table):
    pages = [Path(write_report(photos_table)).read_text("utf-8") for _ in range(2)]
    without_time = [re.sub(r"made \d.*? UTC", "", page) for page in pages]
    assert without_time[0] == without_time[1]


def test_missing_rows_are_reported(photos_table):
    write_run_report(photos_table, 30)
    page = Path(write_report(photos_table)).read_text("utf-8")
    assert "30 were listed, 26 rows are here: 4 are still to be done" in page


def test_hostile_names_labels_and_errors_stay_text(tmp_path):
    rows = [row(f"/{text}", [(text, 0.9), ("cat", 0.1)]) for text in HOSTILE]
    rows += [row(f"/x{text}", status="decode_error", error=text) for text in HOSTILE]
    output = write_table(tmp_path / "<b>out</b>", rows)
    (tmp_path / "<b>out</b>" / "run_report.json").write_text(
        json.dumps({"totals": {"images": len(rows)}, "inputs": HOSTILE, "engine": HOSTILE[0]})
    )
    page = Path(write_report(output, labels=20, examples=20)).read_text("utf-8")
    assert "<script" not in page and "<svg" not in page and 'onerror="' not in page
    assert page.count("<style>") == page.count("</style>") == 1
    assert "<b>out" not in page
    assert "49" not in re.findall(r"\{\{.*?\}\}|7 \* 7", page) and "{{ 7 * 7 }}" in page
    assert len(page) < 400_000


def failure_figures(page: str) -> list[str]:
    section = page[page.index('id="failures"') : page.index('id="provenance"')]
    return section.split("<figure>")[1:]


def test_failures_are_drawn_as_far_as_they_go_and_never_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", POISON)  # decoders that are children read it
    patient = dataclasses.replace(thumbnails.OF_FAILURES, decode_seconds=60)  # on a busy machine
    monkeypatch.setattr(thumbnails, "OF_FAILURES", patient)
    monkeypatch.setattr(thumbnails, "ALL_FAILURES_SECONDS", 600)
    monkeypatch.setattr(preprocess, "decode_image", None)
    whole = Path(make_photos(tmp_path, 1)[0]).read_bytes()
    photo(3, (640, 480)).save(tmp_path / "large.jpg")
    large = (tmp_path / "large.jpg").read_bytes()
    bomb = bytearray(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0")
    bomb += zlib.crc32(bomb[12:]).to_bytes(4, "big") + b"\0\0\0\x04IDATjunk\0\0\0\0"
    files = {
        "cut": ("truncated", whole[: len(whole) * 2 // 3], True),
        "large": ("too_large", large, True),
        "poison": ("inference_error", whole, True),
        "cut in the header": ("truncated", whole[:30], False),
        "bomb": ("too_large", bytes(bomb), False),
        "kills its decoder": ("decode_error", b"POISON:segv", False),
        "killed its decoder": ("decode_crash", whole, False),
        "hung": ("decode_timeout", whole, False),
        "gone": ("truncated", None, False),
    }
    rows = []
    for name, (status, data, _) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        rows.append(row(str(tmp_path / name), status=status, error=name, format="TEST"))
    page = Path(write_report(write_table(tmp_path / "out", rows))).read_text("utf-8")
    figures = failure_figures(page)
    drawn = {re.findall(r"<bdi>(.*?)</bdi>", text)[-1]: "<img" in text for text in figures}
    assert drawn == {name: drawable for name, (_, _, drawable) in files.items()}
    assert "<span>TEST</span><span>1000 Bytes</span>" in page  # of those that are not drawn


def test_failures_within_archives_that_are_read_through_stay_closed(
    tmp_path, tiny_model, monkeypatch
):
    patient = dataclasses.replace(thumbnails.OF_FAILURES, decode_seconds=60)
    monkeypatch.setattr(thumbnails, "OF_FAILURES", patient)
    cut = Path(make_photos(tmp_path, 1)[0]).read_bytes()[:-200]
    (tmp_path / "in").mkdir()
    for kind in ("tar", "tar.gz"):
        pack(kind, [("cut.jpg", cut)], tmp_path / "in" / f"x.{kind}")
    words = ["--model", tiny_model, "--output", str(tmp_path / "out"), "--max-failure-rate", "1"]
    assert main(["classify", str(tmp_path / "in"), *words]) == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    figures = failure_figures(page)
    assert {"tar#" in text: "<img" in text for text in figures} == {True: True, False: False}


def test_drawing_failures_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(thumbnails, "ALL_FAILURES_SECONDS", -1)
    paths = make_photos(tmp_path / "photos", 2)
    output = write_table(tmp_path / "out", [row(path, status="truncated") for path in paths])
    assert thumbnails.draw_failures(thumbnails.Images(output), paths, 32) == {}


@given(st.text())
def test_pieces_of_a_name_are_the_name(text):
    assert "".join(pieces(text)) == text


def test_a_label_breaks_between_its_words():
    assert pieces("Labrador_retriever") == ["Labrador_", "retriever"]
    assert pieces("black-and-tan coonhound") == ["black-", "and-", "tan coonhound"]


@given(st.text(), st.integers(10, 200))
def test_a_clipped_text_keeps_both_ends_within_its_length(text, length):
    clipped = clip(text, length)
    assert len(clipped) <= length + 4
    assert clipped[:5] == text[:5] and clipped[-5:] == text[-5:]


def test_a_long_table_gives_a_small_page(tmp_path):
    rows = [
        row(f"/{'folder' * 20}/{i}.jpg", [(f"label {i % 500}", (i % 100) / 100)])
        for i in range(20_000)
    ]
    output = write_table(tmp_path / "out", rows, parts=20)
    assert os.path.getsize(write_report(output)) < 200_000


def test_a_table_of_failures_only(tmp_path):
    output = write_table(tmp_path / "out", [row("/a", status="empty_file", error="no bytes")])
    page = Path(write_report(output)).read_text("utf-8")
    assert "No image was classified." in page and "empty_file" in page


@pytest.mark.parametrize(
    ("times", "seconds", "mean"),
    [
        ([(0, 5), (10, 100), (20, 100), (30, 100)], 30, 10),
        # An hour without a part is a pause, not slow work.
        ([(0, 5), (10, 100), (3700, 50), (3710, 100), (3720, 100)], 30, 10),
    ],
)
def test_the_rate_is_rows_over_the_time_worked(times, seconds, mean):
    rate = measure_rate(times)
    assert rate["seconds"] == pytest.approx(seconds)
    assert rate["mean"] == pytest.approx(mean)
    assert rate["pauses"] == (len(times) == 5)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 1000)), min_size=4, max_size=50),
    st.integers(1, 80),
)
def test_the_rate_counts_every_part_once(gaps, bins):
    clock, times = 0.0, []
    for gap, count in gaps:
        clock += gap
        times.append((clock, count))
    rate = measure_rate(times, bins)
    if rate is not None:
        width = rate["seconds"] / len(rate["rates"])
        total = sum(count for _, count in times[1:])
        assert sum(rate["rates"]) * width == pytest.approx(total, rel=1e-6)


def test_too_few_parts_have_no_rate():
    assert measure_rate([]) is None
    assert measure_rate([(0, 5), (1, 5)]) is None
    assert measure_rate([(0, 5)] * 5) is None
    assert measure_rate([(0, 5), (1e-310, 5), (2e-310, 5), (5e-310, 5)]) is None


def test_totals_of_an_unfinished_or_unknown_run():
    assert check_totals({}, 5) is None
    assert check_totals({"totals": "?"}, 5) is None
    assert check_totals({"totals": {"images": 7}}, 5)["pending"] == 2


@pytest.mark.parametrize(
    "make", [lambda p: None, lambda p: (p / "predictions").mkdir(parents=True)]
)
def test_no_table_is_refused_with_the_remedy(tmp_path, make, capsys):
    make(tmp_path / "out")
    assert main(["report", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "out") in message and "classify" in message


def test_a_damaged_part_is_named(photos_table, capsys):
    part = min(os.listdir(f"{photos_table}/predictions"))
    with open(f"{photos_table}/predictions/{part}", "wb") as file:
        file.write(b"PAR1 this is no table PAR1")
    assert main(["report", photos_table]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [duckdb.Error, duckdb.SerializationException, duckdb.HTTPException]
)
def test_whatever_duckdb_raises_for_a_damaged_part_is_no_defect(error, photos_table):
    with pytest.raises(UserError, match="delete that file"), open_table(photos_table):
        raise error("no table")
    with pytest.raises(duckdb.BinderException), open_table(photos_table) as table:
        table.query("SELECT nonsense FROM predictions")


def test_a_folder_name_with_brackets_is_no_pattern(tmp_path):
    output = write_table(tmp_path / "run [1]*", [row("/a.jpg")])
    assert main(["report", output]) == 0


def test_damaged_json_is_named(photos_table):
    write_bytes(photos_table, "run_report.json", b"[1")
    with pytest.raises(UserError, match="run_report.json"):
        read_json(photos_table, "run_report.json")
    assert read_bytes(photos_table, "nothing.json") is None


def test_a_image_changed_since_is_no_reason_to_fail(photos_table):
    with open_table(photos_table) as table:
        uris = [uri for (uri,) in table.query("SELECT uri FROM predictions WHERE status = 'ok'")]
    for index, uri in enumerate(uris):
        if index % 2:
            os.remove(uri)
        else:
            Path(uri).write_bytes(b"<html>no image</html>")
    assert "not available" in Path(write_report(photos_table)).read_text("utf-8")
