"""The browse page: its interface by requests, the page itself in a real browser."""

import csv
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile

import pytest
from samples import make_photos, photo
from starlette.testclient import TestClient
from tables import HOSTILE, row, write_run_report, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.results.browse_app import make_app
from imagecensus.jobs.results.browse_rows import PAGE, Filter, Rows
from imagecensus.jobs.results.corrections import COLUMNS, Corrections
from imagecensus.jobs.results.open_table import open_table
from imagecensus.jobs.training_data.sources import read_training_data
from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.training.labelled_data import SplitFractions

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def output(tmp_path):
    """60 photos that exist, in two labels, and three failures."""
    paths = make_photos(tmp_path / "photos", 60)
    rows = [
        row(path, [("cat" if i % 3 else "dog", 0.4 + i / 100), ("cow", 0.01)])
        for i, path in enumerate(paths)
    ]
    rows += [row(f"/gone/{i}.jpg", status="not_found", error="<b>gone</b>") for i in range(3)]
    return write_table(tmp_path / "out", rows, parts=4)


@pytest.fixture
def client(output, tmp_path):
    with open_table(output) as table:
        (tmp_path / "store").mkdir()
        app = make_app(Rows(table, str(tmp_path / "store")), Corrections(output), None, "secret")
        yield TestClient(app, base_url="http://127.0.0.1/secret/")


def rows_of(client, **asked):
    return client.get("api/rows", params=asked).json()


def test_filters_and_orders(client, output):
    assert rows_of(client)["total"] == 63
    assert rows_of(client, label="dog")["total"] == 20
    assert rows_of(client, status="not_found")["total"] == 3
    assert rows_of(client, text="/PHOTOS/0000")["total"] == 10
    assert rows_of(client, low="0.9")["total"] == 10
    assert rows_of(client, low="0.5", high="0.6", label="cat")["total"] == 8
    assert rows_of(client, text="100%' OR 1=1 --")["total"] == 0
    scores = [r["score"] for r in rows_of(client, order="most certain", status="ok")["rows"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 60
    uris = [r["uri"] for r in rows_of(client)["rows"]]
    assert uris == sorted(uris)
    summary = client.get("api/summary").json()
    assert summary["rows"] == 63 and summary["labels"] == [["cat", 40], ["dog", 20]]


def test_pages_cover_each_row_once(client):
    found = []
    for offset in range(0, 70, 7):
        found += [r["id"] for r in rows_of(client, offset=offset, limit=7)["rows"]]
    assert sorted(found) == list(range(63))
    assert rows_of(client, offset=1000)["rows"] == []


def test_many_filters_in_turn_stay_right(output, tmp_path):
    with open_table(output) as table:
        rows = Rows(table, str(tmp_path))
        for _ in range(2):
            for number in range(20):
                total, page = rows.read_page(Filter(text=f"{number:05d}"), 0, PAGE)
                assert total == len(page) == 1


def test_images_are_of_the_table_only_and_made_anew(client):
    found = rows_of(client, status="ok")["rows"][0]
    small = client.get(f"api/rows/{found['id']}/image")
    large = client.get(f"api/rows/{found['id']}/image?view=1")
    for answer in (small, large):
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8")
    failed = rows_of(client, status="not_found")["rows"][0]
    assert client.get(f"api/rows/{failed['id']}/image").status_code == 404
    for path in ("api/rows/9999/image", "api/rows/-1/image", "api/rows/..%2f..%2fetc/image",
                 "etc/passwd", "../../etc/passwd", "browse.html"):  # fmt: skip
        assert client.get(path).status_code == 404


def test_strangers_are_turned_away(client):
    assert client.get("http://127.0.0.1/api/rows").status_code == 404  # without the secret
    assert client.get("http://127.0.0.1/").status_code == 404
    assert client.get("api/rows", headers={"Host": "evil.example"}).status_code == 400
    policy = client.get("").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("asked", [{"offset": "x"}, {"low": "a"}, {"order": "id; DROP TABLE rows"}])
def test_questions_that_make_no_sense(client, asked):
    answer = client.get("api/rows", params=asked)
    assert answer.status_code == 400 and answer.json()["error"]


@pytest.mark.parametrize("asked", [{"limit": -1}, {"offset": 10**30, "limit": 10**30}], ids=str)
def test_places_without_rows(client, asked):
    assert rows_of(client, **asked)["rows"] == []


def test_corrections_become_a_manifest(client, output):
    first, second = rows_of(client, label="dog")["rows"][:2]
    for found, label in ((first, "wolf"), (second, '=cat "x",\n')):
        answer = client.post("api/correct", json={"id": found["id"], "label": label})
        assert answer.status_code == 200
    rows = list(csv.DictReader(io.StringIO(client.get("corrections.csv").text, newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [(r["uri"], r["label"], r["predicted"]) for r in rows] == [
        (first["uri"], "wolf", "dog"),
        (second["uri"], '=cat "x",', "dog"),
    ]
    assert rows_of(client, corrected=1)["total"] == 2
    data = read_training_data(f"{output}/corrections.csv", SplitFractions())
    assert sorted(data.labels) == ['=cat "x",', "wolf"]
    names = [name for split in data.splits.values() for name in split.names]
    assert sorted(names) == [first["uri"], second["uri"]]
    assert Corrections(output).label_of(first["uri"]) == "wolf"  # kept for the next time
    assert client.post("api/correct", json={"id": first["id"], "label": None}).json()["count"] == 1
    assert rows_of(client, corrected=1)["rows"][0]["uri"] == second["uri"]


@pytest.mark.parametrize(
    "body",
    [{}, {"id": 1}, {"id": "x", "label": "a"}, {"id": 1, "label": ""}, {"id": 1, "label": "a\nb"}],
)
def test_corrections_that_are_none(client, body, output):
    assert client.post("api/correct", json=body).status_code == 400
    assert client.post("api/correct", content=b"{").status_code == 400
    assert client.post("api/correct", json={"id": 99999, "label": "a"}).status_code == 404
    assert not os.path.exists(f"{output}/corrections.csv")


def test_a_foreign_corrections_file_is_not_overwritten(output):
    pathlib.Path(output, "corrections.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="rename"):
        Corrections(output)


def test_a_image_from_elsewhere(output, tmp_path, tiny_model, client):
    assert "--model" in client.post("api/classify", content=b"x").json()["error"]
    data = io.BytesIO()
    photo(1).save(data, "PNG")
    with open_table(output) as table:
        app = make_app(Rows(table, str(tmp_path)), Corrections(output), tiny_model, "s")
        other = TestClient(app, base_url="http://127.0.0.1/s/")
        answer = other.post("api/classify", content=data.getvalue(), headers={"X-Name": "%C3%BC"})
        assert answer.json()["status"] == "ok" and answer.json()["uri"] == "ü"
        assert other.post("api/classify", content=b"<html>").json()["status"] == "not_an_image"


def test_a_port_that_is_taken(output, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["browse", output, "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another" in capsys.readouterr().err


@pytest.fixture
def serve():
    """Starts `imagecensus browse` as a process; gives its address; ends it as Ctrl-C would."""
    started = []

    def start(output):
        words = [sys.executable, "-m", "imagecensus.jobs.cli", "browse", str(output), "--port", "0"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        return process.stdout.readline().split()[0]

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stdout.close()


def shown_positions(page):
    return page.evaluate(
        "[...document.querySelectorAll('.tile')].map(t => +t.dataset.position)"
        ".sort((a, b) => a - b)"
    )


@pytest.mark.browser
def test_filter_correct_and_drop_in_a_browser(output, tiny_model, chromium, serve):
    write_run_report(output, 63, tiny_model)
    page = chromium.new_page(viewport={"width": 1000, "height": 700})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(serve(output))
    page.wait_for_selector("text=63 images")
    page.fill("#label", "dog")
    page.wait_for_selector("text=20 images")
    page.locator("#scroll .tile img").first.wait_for()
    page.locator(".tile").first.click()
    page.wait_for_selector("dialog[open] .view img")
    page.fill("#correction", "wolf")
    page.click("form.correct button")
    page.wait_for_selector("dialog >> text=corrected to wolf")
    page.click("text=next →")
    page.wait_for_selector("dialog >> text=00003.jpg")
    page.click(".close")
    page.check("#corrected")
    page.wait_for_selector("text=1 image")
    assert page.locator(".tile .corrected").all_text_contents() == ["wolf"]
    with page.expect_download() as download:
        page.click("#download")
    assert "wolf" in pathlib.Path(download.value.path()).read_text()
    data = io.BytesIO()
    photo(7).save(data, "PNG")
    transfer = page.evaluate_handle(
        "bytes => { const t = new DataTransfer();"
        " t.items.add(new File([new Uint8Array(bytes)], 'new.png')); return t; }",
        list(data.getvalue()),
    )
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("dialog .answers button")
    assert page.locator("dialog .answers button").count() == 4
    assert not errors
    page.close()


@pytest.mark.browser
def test_a_long_table_scrolls_to_any_row(tmp_path, chromium, serve):
    count = 300_000
    rows = [row(f"/p/{i:06d}.jpg") for i in range(1000)]
    output = write_table(tmp_path / "out", rows)
    part = next(pathlib.Path(output, "predictions").iterdir())
    import duckdb

    duckdb.sql(
        f"COPY (SELECT '/p/' || lpad(n::VARCHAR, 6, '0') || '.jpg' AS uri, p.* EXCLUDE (uri) FROM"
        f" range({count}) t(n), (FROM '{part}' LIMIT 1) p) TO '{part}.new' (FORMAT parquet)"
    )
    os.replace(f"{part}.new", part)
    page = chromium.new_page(viewport={"width": 420, "height": 700})  # narrow: the tallest grid
    page.goto(serve(output))
    page.wait_for_selector("text=300,000 images")
    scroll = page.locator("#scroll")
    for share in (1, 0.5, 0.25):
        scroll.evaluate("(e, share) => { e.scrollTop = e.scrollHeight * share; }", share)
        page.wait_for_timeout(600)
        shown = shown_positions(page)
        assert shown == list(range(shown[0], shown[-1] + 1)) and len(shown) >= 6
        assert abs(shown[0] - share * count) < 0.01 * count
    assert page.locator(".tile").first.get_attribute("title").endswith(".jpg")
    # A turn of the wheel goes on by neighbours, whatever the scale of the bar.
    before = shown_positions(page)
    page.mouse.move(200, 500)
    for _ in range(3):
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(80)
    page.wait_for_timeout(500)
    assert before[0] < shown_positions(page)[0] <= before[0] + 12
    scroll.evaluate("e => { e.scrollTop = 0; }")
    page.wait_for_timeout(400)
    assert shown_positions(page)[0] == 0
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_hostile_text_does_nothing_in_either_page(tmp_path, chromium, serve, width):
    paths = make_photos(tmp_path / "photos", 1)
    rows = [row(f"/{text}", [(text, 0.9)]) for text in HOSTILE]
    rows += [row(f"/x{text}", status="decode_error", error=text) for text in HOSTILE]
    output = write_table(tmp_path / "out", [*rows, row(paths[0])])
    assert main(["report", output, "--labels", "20", "--examples", "20"]) == 0
    for address in (f"file://{output}/report.html", serve(output)):
        page = chromium.new_page(viewport={"width": width, "height": 800})
        dialogs, errors = [], []
        page.on("dialog", lambda dialog: dialogs.append(dialog))  # noqa: B023
        page.on("pageerror", lambda error: errors.append(str(error)))  # noqa: B023
        page.goto(address)
        page.wait_for_timeout(500)
        if not address.startswith("file"):
            page.wait_for_selector(".tile")
            page.locator(".tile").nth(3).click()
            page.wait_for_selector("dialog[open]")
        assert page.evaluate("window.hacked") is None
        assert not dialogs and not errors
        # Nothing sticks out sideways, on a desk or a phone.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if address.startswith("file"):
            assert page.evaluate("document.images.length") >= 1
            assert page.evaluate(
                "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
            )
            assert not re.search("https?://", page.evaluate("document.head.innerHTML"))
        page.close()


def test_images_inside_archives_are_shown_on_both_pages(tmp_path, tiny_model):
    paths = make_photos(tmp_path / "loose", 6)
    folder = tmp_path / "in"
    folder.mkdir()
    with (
        tarfile.open(folder / "a.tar", "w") as tar,
        tarfile.open(folder / "b.tar.gz", "w:gz") as gz,
    ):
        for path in paths:
            tar.add(path, os.path.basename(path))
            gz.add(path, "deep/" + os.path.basename(path))
    output = str(tmp_path / "out")
    assert main(["classify", str(folder), "--model", tiny_model, "--output", output]) == 0
    page = pathlib.Path(output, "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") >= 12 and "not available" not in page
    with open_table(output) as table:
        app = make_app(Rows(table, str(tmp_path)), Corrections(output), None, "s")
        client = TestClient(app, base_url="http://127.0.0.1/s/")
        found = rows_of(client)["rows"]
        assert len(found) == 12 and "#" in found[0]["uri"]
        for one in found:
            assert client.get(f"api/rows/{one['id']}/image?view=1").status_code == 200
