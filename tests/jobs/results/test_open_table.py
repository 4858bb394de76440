"""The commands over a finished table, where the table is in a bucket."""

import os

import pytest
from bucket_emulator import emulated_bucket
from samples import make_photos
from tables import row, write_table

from imagecensus.jobs.cli import main
from imagecensus.jobs.results.corrections import Corrections
from imagecensus.transforms.storage import store

pytestmark = pytest.mark.gcs


@pytest.fixture
def bucket():
    """A bucket on loopback; `gs://tables`."""
    with emulated_bucket("tables"):
        yield "gs://tables"


@pytest.fixture
def output(bucket, tmp_path):
    """20 images in the bucket, each a row with an embedding, in three parts."""
    uris = []
    for path in make_photos(tmp_path / "photos", 20):
        uris.append(f"{bucket}/photos/{'cat' if len(uris) % 2 else 'dog'}/{os.path.basename(path)}")
        with open(path, "rb") as file:
            store.write(uris[-1], file.read())
    rows = [row(uri, embedding=[float(i // 2), 1.0]) for i, uri in enumerate(uris)]
    local = write_table(tmp_path / "out", rows, 3, embedding_size=2)
    for name in os.listdir(f"{local}/predictions"):
        with open(f"{local}/predictions/{name}", "rb") as file:
            store.write(f"{bucket}/out/predictions/{name}", file.read())
    return f"{bucket}/out"


def test_report_evaluate_similar_and_table(output, bucket, capsys):
    assert main(["evaluate", output, "--labels", "parent"]) == 0
    assert "accuracy     0.5000" in capsys.readouterr().out
    page = store.read(f"{output}/report.html").decode()
    assert page.count("data:image/jpeg;base64,") > 10 and page.count("data:image/png") == 3
    assert main(["similar", output, f"{bucket}/photos/dog/00006.jpg", "--top", "1"]) == 0
    assert "00007.jpg" in capsys.readouterr().out
    assert main(["table", output, "--to", f"{bucket}/table.csv"]) == 0
    assert store.read(f"{bucket}/table.csv").count(b"\n") == 21


def test_corrections_are_kept_in_the_bucket(output):
    Corrections(output).set("gs://tables/a.jpg", "cat", "dog", 0.5)
    assert Corrections(output).label_of("gs://tables/a.jpg") == "cat"
    assert store.read(f"{output}/corrections.csv").startswith(b"uri,label")


def test_an_empty_bucket_is_refused(bucket, capsys):
    assert main(["report", f"{bucket}/nothing"]) == 2
    assert "gs://tables/nothing: holds no predictions" in capsys.readouterr().err
