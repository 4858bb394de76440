"""Evaluation: against figures worked out by hand and by scikit-learn, and hostile truth files."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from tables import HOSTILE, row, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.evaluate import evaluate
from imagecensus.model_export.common.errors import UserError


@pytest.fixture
def table(tmp_path):
    """3 cats (2 right), 2 dogs (1 right, 1 second best), 1 dog that failed, 1 nobody knows."""
    rows = [
        row("/p/cat/1.jpg", [("cat", 0.9), ("dog", 0.1)], shown="cat"),
        row("/p/cat/2.jpg", [("cat", 0.8), ("dog", 0.2)], shown="cat"),
        row("/p/cat/3.jpg", [("dog", 0.6), ("cow", 0.3)], shown="cat"),
        row("/p/dog/4.jpg", [("dog", 0.7), ("cat", 0.3)], shown="dog"),
        row("/p/dog/5.jpg", [("cat", 0.55), ("dog", 0.45)], shown="dog"),
        row("/p/dog/6.jpg", status="truncated", error="cut", shown="dog"),
        row("/7.jpg", [("cat", 0.9), ("dog", 0.1)], shown=None),
    ]
    return write_table(tmp_path / "out", rows, 2, passthrough=[pa.field("shown", pa.string())])


def check(evaluation):
    assert evaluation["rows"] == 7
    assert evaluation["with_truth"] == 6
    assert evaluation["evaluated"] == 5
    assert evaluation["failed"] == 1
    assert evaluation["accuracy"]["value"] == pytest.approx(3 / 5)
    assert evaluation["top_k_accuracy"]["2"]["value"] == pytest.approx(4 / 5)
    cat, dog = evaluation["per_class"]
    assert (cat["label"], cat["support"]) == ("cat", 3)
    assert cat["precision"] == pytest.approx(2 / 3) and cat["recall"] == pytest.approx(2 / 3)
    assert (dog["label"], dog["support"]) == ("dog", 2)
    assert dog["precision"] == pytest.approx(1 / 2) and dog["f1"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("source", ["parent", "column:shown"])
def test_truth_of_the_table_itself(table, source):
    check(evaluate(table, source))


TRUTH = [(f"/p/cat/{i}.jpg", "cat") for i in (1, 2, 3)] + [
    (f"/p/dog/{i}.jpg", "dog") for i in (4, 5, 6)
]


def write_csv(path, rows, header=("uri", "label")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def test_truth_of_files(table, tmp_path):
    check(evaluate(table, write_csv(tmp_path / "truth.csv", [*TRUTH, ("/other.jpg", "cow")])))
    names = [(uri.rsplit("/", 1)[1], label) for uri, label in TRUTH]
    by_name = evaluate(
        table, write_csv(tmp_path / "n.csv", names, ("file", "class")), "file", "class"
    )
    check(by_name)
    assert by_name["matched_by"] == "file name"
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"uri": uri, "label": label}) + "\n" for uri, label in TRUTH)
    )
    check(evaluate(table, str(tmp_path / "t.jsonl")))
    uris, labels = zip(*TRUTH, strict=True)
    pa.parquet.write_table(pa.table({"uri": uris, "label": labels}), tmp_path / "t.parquet")
    check(evaluate(table, str(tmp_path / "t.parquet")))


def test_relative_paths_start_at_the_file(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    output = write_table(tmp_path / "out", [row(f"{folder}/a/x.jpg"), row(f"{folder}/b/x.jpg")])
    truth = write_csv(folder / "truth.csv", [("./a/x.jpg", "cat"), ("b/x.jpg", "dog")])
    found = evaluate(output, truth)
    assert found["evaluated"] == 2 and found["matched_by"] == "uri"


def test_names_in_another_unicode_form_are_the_same(tmp_path):
    composed, decomposed = "/p/caf\u00e9.jpg", "/p/cafe\u0301.jpg"
    output = write_table(tmp_path / "out", [row(decomposed), row("/p/1.jpg"), row("/q/1.jpg")])
    for names in ([composed, "/p/1.jpg"], ["/z/caf\u00e9.jpg"]):
        truth = write_csv(tmp_path / "t.csv", [(name, "cat") for name in names])
        found = evaluate(output, truth)
        assert found["evaluated"] == len(names)
    both = write_table(tmp_path / "both", [row(decomposed), row(composed)])
    truth = write_csv(tmp_path / "t.csv", [(composed, "cat")])
    assert evaluate(both, truth)["evaluated"] == 1


def test_members_of_archives_and_encoded_names_have_parents(tmp_path):
    rows = [
        row("/a/x.tar#cat/1.jpg"),
        row("/a/y.zip#deep/dog/1.jpg"),
        row("file:///a/c%61t/%FF.jpg"),
        row("file:///a/%FF/x%FF.jpg"),
    ]
    found = evaluate(write_table(tmp_path / "out", rows), "parent")
    assert {entry["label"]: entry["support"] for entry in found["per_class"]} == {
        "%FF": 1,
        "cat": 2,
        "dog": 1,
    }


def test_the_command_writes_files_and_renews_the_report(table, capsys):
    assert main(["evaluate", table, "--labels", "parent"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy     0.6000" in printed and "report.html" in printed
    for name in ("confusion", "calibration", "coverage"):
        assert Path(f"{table}/evaluation/{name}.png").read_bytes()[:4] == b"\x89PNG"
    confusion = list(
        csv.DictReader(Path(f"{table}/evaluation/confusion.csv").read_text().splitlines())
    )
    assert {(r["truth"], r["label"]): int(r["count"]) for r in confusion} == {
        ("cat", "cat"): 2, ("cat", "dog"): 1, ("dog", "cat"): 1, ("dog", "dog"): 1,
    }  # fmt: skip
    mistakes = list(
        csv.DictReader(Path(f"{table}/evaluation/mistakes.csv").read_text().splitlines())
    )
    assert [r["uri"] for r in mistakes] == ["/p/cat/3.jpg", "/p/dog/5.jpg"]
    page = Path(f"{table}/report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3 and "Most certain mistakes" in page
    assert main(["report", table]) == 0  # on its own it keeps the section
    assert "Most certain mistakes" in Path(f"{table}/report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("", "--labels is missing"),
        ("column:nothing", "no such column"),
        ("/no/such.csv", "no such manifest"),
        ("truth.docx", "neither"),
    ],
)
def test_a_source_that_is_none_is_refused(table, source, words, capsys):
    assert main(["evaluate", table, "--labels", source]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([("/p/cat/1.jpg", "cat"), ("/p/cat/1.jpg", "dog")], ("uri", "label"), "is both"),
        ([("/elsewhere.jpg", "cat")], ("uri", "label"), "none of its images"),
        ([("/elsewhere.jpg", "cat")], ("file_name", "label"), "its column 'file_name' has"),
        (
            [("/p/cat/1.jpg", "katze")],
            ("uri", "label"),
            "no true label is among the answers for any image; the truth",
        ),
        ([("/p/cat/1.jpg", "cat")], ("where", "label"), "--uri-column"),
        ([("/p/dog/6.jpg", "dog")], ("uri", "label"), "nothing to evaluate"),
        ([], ("uri", "label"), "none of its images"),
    ],
)
def test_a_truth_file_that_does_not_fit_is_refused(table, tmp_path, rows, header, words, capsys):
    path = write_csv(tmp_path / "truth.csv", rows, header)
    assert main(["evaluate", table, "--labels", path]) == 2
    message = capsys.readouterr().err
    assert words in message and "Traceback" not in message


def test_a_truth_file_of_noise_is_refused(table, tmp_path, capsys):
    for name in ("truth.parquet", "truth.jsonl", "truth.csv"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
        assert main(["evaluate", table, "--labels", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err


def test_labels_the_model_never_answers_are_counted_and_reported(tmp_path):
    rows = [row("/p/cat/1.jpg"), row("/p/unicorn/2.jpg"), row("/p/unicorn/3.jpg")]
    found = evaluate(write_table(tmp_path / "out", rows), "parent")
    assert found["unknown_labels"] == {"unicorn": 2}
    assert found["accuracy"]["value"] == pytest.approx(1 / 3)
    unicorn = next(entry for entry in found["per_class"] if entry["label"] == "unicorn")
    assert unicorn["precision"] is None and unicorn["recall"] == 0


def test_hostile_labels_reach_plots_and_page_as_text(tmp_path):
    column = [pa.field("shown", pa.string())]
    rows = [
        row(f"/{i}.jpg", [(text, 0.9), ("$x_{", 0.1)], shown=HOSTILE[i - 1])
        for i, text in enumerate(HOSTILE)
    ]
    output = write_table(tmp_path / "out", rows, passthrough=column)
    assert main(["evaluate", output, "--labels", "column:shown"]) == 0
    page = Path(f"{output}/report.html").read_text("utf-8")
    assert "<script" not in page and "<svg" not in page


@pytest.mark.parametrize("name", ["label", "Label", "class_id", "score", "STATUS", "top_k", "uri"])
def test_the_models_own_answers_are_no_truth(table, name):
    with pytest.raises(UserError, match="the model's own answer.*shown"):
        evaluate(table, f"column:{name}")


def test_the_manifests_column_is_named_instead(tmp_path):
    field = pa.field("manifest_label", pa.string())
    rows = [row("/a.jpg", [("cat", 0.9)], manifest_label="dog")]
    output = write_table(tmp_path / "out", rows, passthrough=[field])
    with pytest.raises(UserError, match="column:manifest_label"):
        evaluate(output, "column:label")


def test_answers_in_a_file_are_no_truth(table, tmp_path, capfd):
    exported = tmp_path / "table.csv"
    assert main(["table", table]) == 0
    exported.write_text(capfd.readouterr().out)
    with pytest.raises(UserError, match="answers, not true labels"):
        evaluate(table, str(exported))
    for header in (("uri", "label", "score"), ("path", "Label", "Class_ID")):
        some = write_csv(tmp_path / "some.csv", [("/p/cat/1.jpg", "cat", 0.9)], header)
        with pytest.raises(UserError, match="answers, not true labels.*leave out"):
            evaluate(table, some, label_column=header[1])
    own = [("/p/cat/1.jpg", "dog", "cat", 0.9)]  # as `browse` writes corrections
    corrections = write_csv(tmp_path / "d.csv", own, ("uri", "label", "predicted", "score"))
    assert evaluate(table, corrections)["evaluated"] == 1
    corrected = write_csv(
        tmp_path / "c.csv", [("/p/cat/1.jpg", "dog", "cat")], ("uri", "label", "predicted")
    )
    with pytest.raises(UserError, match="--label-column label"):
        evaluate(table, corrected, label_column="predicted")
    assert evaluate(table, corrected)["evaluated"] == 1


def test_a_bad_line_of_truth_costs_itself_and_is_said(table, tmp_path, capsys):
    truth = [("/p/cat/1.jpg", "cat"), ("/p/cat/2.jpg", "cat", "x"), ("/p/dog/4.jpg", "dog")]
    path = write_csv(tmp_path / "truth.csv", truth, ("uri", "label"))
    assert main(["evaluate", table, "--labels", path]) == 0
    said = capsys.readouterr()
    assert "evaluated    2 of 7" in said.out
    assert "1 line left out: line 3 has 3 fields, the first line 2" in said.err


def test_no_mistake_among_many_is_said(tmp_path, capsys):
    rows = [row(f"/p/cat/{i}.jpg") for i in range(30)]
    for count in (10, 30):
        output = write_table(tmp_path / str(count), rows[:count])
        assert main(["evaluate", output, "--labels", "parent"]) == 0
        said = capsys.readouterr().out
        assert ("every true label is the model's answer" in said) == (count == 30)


def test_labels_are_compared_as_people_see_them(tmp_path):
    rows = [
        row("/1", [("Caf\u00e9", 0.9)], shown="cafe\u0301"),
        row("/2", [("Caf\u00e9", 0.9)], shown="CAF\u00c9 "),
        row("/3", [("dog", 0.9), ("Dog", 0.1)], shown="dog"),
        row("/4", [("dog", 0.9), ("Dog", 0.1)], shown="DOG"),
    ]
    output = write_table(tmp_path / "out", rows, passthrough=[pa.field("shown", pa.string())])
    found = evaluate(output, "column:shown")
    # "DOG" could be either of two labels of the model: it is neither.
    assert found["accuracy"]["value"] == pytest.approx(3 / 4)
    assert found["unknown_labels"] == {"DOG": 1}
