"""`imagecensus predict`: the same answers as the batch job, on files and standard input."""

import io
import json
import os
import pathlib
import subprocess
import sys

import pytest
from packing import pack
from PIL import Image
from samples import make_photos, photo, read_rows

from imagecensus.jobs.cli import main
from imagecensus.jobs.predict import Predictor, describe, printable
from imagecensus.model_export.common.errors import UserError


def predict(*args, model):
    return main(["predict", *map(str, args), "--model", model])


def test_answers_equal_the_rows_of_the_batch_job(tiny_model, tmp_path, capsys):
    paths = make_photos(tmp_path / "in", 5)
    paths.append(str(tmp_path / "in" / "cut.jpg"))
    with open(paths[0], "rb") as whole, open(paths[-1], "wb") as cut:
        cut.write(whole.read(300))
    main(["classify", str(tmp_path / "in"), "--model", tiny_model, "--output", str(tmp_path / "o")])
    capsys.readouterr()
    assert predict(*paths, "--json", model=tiny_model) == 1  # one failed
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = {row["uri"]: row for row in read_rows(tmp_path / "o").to_pylist()}
    assert [answer["uri"] for answer in answers] == paths
    for answer in answers:
        row = rows[answer["uri"]]
        assert set(row) - set(answer) == {"etag_or_mtime", "raw_of"}
        for name in answer.keys() - {"score", "top_k"}:
            assert answer[name] == row[name]
        if answer["status"] == "ok":
            assert answer["score"] == pytest.approx(row["score"], abs=1e-6)
            assert [a["label"] for a in answer["top_k"]] == [a["label"] for a in row["top_k"]]


def test_an_image_that_the_engine_fails_on_is_a_row_and_its_neighbours_are_answered(
    tiny_model, tmp_path, monkeypatch
):
    predictor = Predictor(tiny_model)
    whole = predictor._model.engine.infer

    def infer(pixels):
        if (pixels == 0).all((1, 2, 3)).any():
            raise RuntimeError("out of memory")
        return whole(pixels)

    monkeypatch.setattr(predictor._model.engine, "infer", infer)
    files = []
    for image in (photo(1), Image.new("RGB", (64, 64)), photo(2)):
        data = io.BytesIO()
        image.save(data, "PNG")
        files.append((f"{len(files)}.png", data.getvalue()))
    rows = list(predictor.predict(files, embeddings=True))
    assert [row["status"] for row in rows] == ["ok", "inference_error", "ok"]
    assert rows[1]["error"] == "RuntimeError: out of memory" and rows[1]["embedding"] is None
    assert rows[0]["embedding"].shape == rows[2]["embedding"].shape == (16,)


def test_uris_of_the_table_are_taken_back(tiny_model, tmp_path, capsys):
    paths = make_photos(tmp_path / "in", 3)
    os.rename(paths[0], os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9.jpg"))
    files = []
    for i, path in enumerate(paths[1:]):
        with open(path, "rb") as file:
            files.append((f"x/{i}.jpg", file.read()))
    for kind in ("tar", "tar.gz"):
        pack(kind, files, tmp_path / "in" / f"a.{kind}")
    main(["classify", str(tmp_path / "in"), "--model", tiny_model, "--output", str(tmp_path / "o")])
    capsys.readouterr()
    rows = {row["uri"]: row for row in read_rows(tmp_path / "o").to_pylist()}
    assert len(rows) == 7 and any("#x/1.jpg" in uri for uri in rows)
    assert predict(*rows, "--json", model=tiny_model) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["uri"] for answer in answers] == list(rows)
    assert [answer["label"] for answer in answers] == [row["label"] for row in rows.values()]
    assert predict(f"{tmp_path}/in/a.tar#none.jpg", model=tiny_model) == 1
    assert "the archive has no such member" in capsys.readouterr().out


def test_many_images_keep_their_order(tiny_model, tmp_path):
    paths = make_photos(tmp_path, 70)
    datas = [(path, pathlib.Path(path).read_bytes()) for path in paths]
    rows = list(Predictor(tiny_model).predict(datas))
    assert [row["uri"] for row in rows] == paths
    [alone] = Predictor(tiny_model).predict(datas[50:51], embeddings=True)
    assert alone["embedding"].shape == (16,)
    assert alone["score"] == pytest.approx(rows[50]["score"], abs=1e-6)


def test_standard_input(tiny_model, monkeypatch, capsys):
    data = io.BytesIO()
    photo(3).save(data, "PNG")
    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": io.BytesIO(data.getvalue())}))
    assert predict("-", "--top-k", "2", model=tiny_model) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "-" and len(printed) == 3


def test_files_that_are_none(tiny_model, tmp_path, capsys):
    (tmp_path / "empty.jpg").write_bytes(b"")
    odd = os.fsencode(tmp_path) + b"/\xff\x1b[2J.jpg"
    with open(odd, "wb") as file:
        file.write(b"<html>")
    assert (
        predict(tmp_path / "gone.jpg", tmp_path / "empty.jpg", os.fsdecode(odd), model=tiny_model)
        == 1
    )
    printed = capsys.readouterr().out
    assert "not_found" in printed and "empty_file" in printed and "not_an_image" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["."], "imagecensus classify"),
        (["-", "-"], "name it once"),
        (["a.jpg", "--top-k", "0"], "--top-k"),
        (["a.jpg", "--top-k", "1000"], None),
        (["a.jpg", "--engine", "abacus"], "--engine=abacus"),
        (["a.jpg", "--jsno"], "did you mean --json"),
    ],
)
def test_requests_that_make_no_sense(words, told, tiny_model, capsys):
    assert main(["predict", *words, "--model", tiny_model]) == (2 if told else 1)
    assert (told or "") in capsys.readouterr().err


def test_a_model_that_is_none(tmp_path, capsys):
    assert predict("a.jpg", model=str(tmp_path / "nothing")) == 2
    assert "no such model folder" in capsys.readouterr().err
    with pytest.raises(UserError):
        Predictor(str(tmp_path))


def test_neither_beam_nor_tensorflow_is_imported(tiny_model, tmp_path):
    [path] = make_photos(tmp_path, 1)
    code = (
        "import sys; from imagecensus.jobs.cli import main; main(sys.argv[1:]);"
        " print([m for m in ('tensorflow', 'apache_beam', 'keras', 'google.cloud.storage')"
        " if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, "predict", path, "--model", tiny_model]
    done = subprocess.run([*words, "--engine", "openvino"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_text_for_a_terminal_holds_no_commands():
    assert printable("a\x1b]0;x\x07\n\u202eb ü") == "a\\x1b]0;x\\x07\\n\\u202eb ü"
    row = {"uri": "a", "status": "ok", "top_k": [{"label": "b\x1b", "score": 1.0}]}
    assert "\x1b" not in describe(row)
