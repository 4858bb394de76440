"""A count that is shown in several places is the same everywhere."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from packing import pack
from samples import make_photos

from imagecensus.jobs.cli import main
from imagecensus.transforms.dataset.inventory import count_no_images


@pytest.fixture
def messy(tmp_path):
    """Images of all fates, and files that are none."""
    folder = tmp_path / "messy"
    paths = make_photos(folder, 12)
    photo = Path(paths[0]).read_bytes()
    (folder / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "download.jpg.part").write_bytes(photo[: len(photo) // 2])  # an image, though cut
    (folder / "empty.png").touch()
    (folder / "broken.jpg").write_bytes(b"no image at all")
    for name in ("README.md", "notes.txt", "MVI_1.MP4", "table.csv", "classes"):
        (folder / name).write_bytes(b"text of no image")
    (folder / "blank.txt").touch()
    (folder / "00001.json").write_text("{}")  # a sidecar: left out
    inside = [("a.jpg", photo), ("b.txt", b"text"), ("c.jpg", b"broken"), ("d.jpg", photo[:400])]
    pack("tar", inside, tmp_path / "messy" / "more.tar")
    return folder


def test_summary_report_page_status_and_table_agree(messy, tiny_model, tmp_path, capfd):
    output = tmp_path / "out"
    words = ["classify", str(messy), f"--model={tiny_model}", f"--output={output}"]
    assert main([*words, "--unit-images=5"]) == 0
    summary = capfd.readouterr().out
    report = json.loads((output / "run_report.json").read_text())
    totals = report["totals"]

    sql = f"SELECT uri, status FROM '{output}/predictions/*.parquet'"
    rows = duckdb.sql(sql).fetchall()
    not_images = count_no_images(rows)
    ok = sum(status == "ok" for _, status in rows)
    assert not_images == 7 and len(rows) - ok - not_images == 6
    expected = {
        "images": len(rows), "rows": len(rows), "predicted": ok, "not_images": not_images,
        "failed": len(rows) - ok - not_images, "pending": 0, "balanced": True,
    }  # fmt: skip
    assert expected.items() <= totals.items()
    assert report["statuses"] == Counter(status for _, status in rows)
    counters = report["counters"]
    assert counters["images_ok"] == ok and counters["not_images"] == not_images
    assert counters["images_failed"] == expected["failed"]

    [dataset] = [line for line in summary.splitlines() if line.startswith("dataset")]
    equation = (
        f"{len(rows)} files = {ok} predicted + {expected['failed']} failed"
        f" + {not_images} that are no images"
    )
    assert equation in dataset
    assert main(["status", str(output)]) == 0
    status = capfd.readouterr().out
    assert dataset in status
    statuses = [
        next(line for line in said.splitlines() if line.startswith("statuses"))
        for said in (summary, status)
    ]
    assert statuses[0] == statuses[1]
    assert main(["status", str(output), "--json"]) == 0
    assert expected.items() <= json.loads(capfd.readouterr().out).items()

    page = html.unescape((output / "report.html").read_text("utf-8"))
    assert equation.replace("files =", "listed =") in page
    cards = dict(re.findall(r"<b[^>]*>([\d,]+)</b><span>([a-z ,]+)", page))
    by_name = {text.split("(")[0].strip(): int(number) for number, text in cards.items()}
    assert by_name["failed"] == expected["failed"]
    assert by_name["no images, by their names"] == not_images
    shown = dict(re.findall(r'<span class="bad">(\w+)</span> <span class="soft">· ([\d,]+)', page))
    assert {name: int(count) for name, count in shown.items()} == {
        name: count for name, count in report["statuses"].items() if name != "ok"
    }

    assert main([*words, "--no-report"]) == 0
    again = json.loads((output / "run_report.json").read_text())
    assert expected.items() <= again["totals"].items()
    assert again["statuses"] == report["statuses"] and again["totals"]["added"] == 0


def test_evaluation_counts_no_file_that_is_no_image_as_failed(messy, tiny_model, tmp_path, capfd):
    folder = messy
    output = tmp_path / "out"
    words = [str(folder), f"--model={tiny_model}", f"--output={output}", "--no-report"]
    assert main(["classify", *words]) == 0
    truth = tmp_path / "truth.csv"
    rows = duckdb.sql(f"SELECT uri, status FROM '{output}/predictions/*.parquet'").fetchall()
    [label, *_] = json.loads((output / "run_report.json").read_text())["labels"]
    truth.write_text("uri,label\n" + "".join(f"{uri},{label}\n" for uri, _ in rows))
    assert main(["evaluate", str(output), f"--labels={truth}"]) == 0
    found = json.loads((output / "evaluation" / "evaluation.json").read_text())
    assert found["with_truth"] == len(rows)
    assert found["with_truth"] == found["evaluated"] + found["failed"] + found["not_images"]
    assert found["failed"] == 6 and found["not_images"] == 7
    assert "6 more rows with a truth and no label" in capfd.readouterr().out
