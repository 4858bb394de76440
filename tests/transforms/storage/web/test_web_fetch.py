"""Lists of web addresses through the command line, against a server that misbehaves."""

from __future__ import annotations

import io
import zipfile

import pyarrow.parquet as pq
import pytest
from web_server import PHOTOS, classify_list, names

from imagecensus.jobs.cli import main
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import protocol, store
from imagecensus.transforms.storage.web.policy import WebPolicy


@pytest.fixture
def expected(tmp_path, web, tiny_model):
    output = f"{tmp_path}/expected"
    assert main(["classify", f"{tmp_path}/photos", f"--model={tiny_model}",
                 f"--output={output}", "--no-report"]) == 0  # fmt: skip
    rows = pq.read_table(f"{output}/predictions").to_pylist()
    return {row["uri"].rpartition("/")[2]: (row["label"], row["score"]) for row in rows}


@pytest.mark.parametrize("fault", ["", "/503x2", "/429x2", "/resetx2", "/truncatex2", "/to/"])
def test_a_list_gives_the_rows_of_the_same_images_on_disk(
    tmp_path, web, tiny_model, expected, fault
):
    uris = [f"{web.url}{fault}{name}" for name in names(web)]
    rows = classify_list(tmp_path, tiny_model, uris)
    assert {row["uri"].rpartition("/")[2]: (row["label"], row["score"]) for row in rows} == expected
    assert sorted(row["uri"] for row in rows) == sorted(uris)
    asked = len(web.asked)
    assert len(classify_list(tmp_path, tiny_model, uris)) == PHOTOS
    assert len(web.asked) == asked, "a finished row is never asked for again"


def test_each_address_has_a_row_that_says_what_became_of_it(tmp_path, web, tiny_model):
    [photo, *_] = names(web)
    web.files |= {"/page.jpg": b"<!doctype html><html>", "/big.jpg": bytes(100_000), "/cut.jpg":
                  web.files[photo][:-400], "/noai.jpg": b"x", "/other.jpg": web.files[photo],
                  "/packed.jpg": web.files[photo], "/empty.jpg": b""}  # fmt: skip
    web.headers |= {
        "/page.jpg": {"Content-Type": "text/html; charset=utf-8"},
        "/noai.jpg": {"X-Robots-Tag": "noai, noimageai"},
        "/other.jpg": {"X-Robots-Tag": "googlebot: noindex"},
        "/packed.jpg": {"packed": "1"},
    }
    statuses = {
        photo: "ok",
        "/gone.jpg": "not_found",
        "/page.jpg": "not_an_image",
        "/big.jpg": "too_large",
        "/cut.jpg": "truncated",
        "/noai.jpg": "permission_denied",
        "/other.jpg": "ok",
        "/packed.jpg": "ok",
        "/empty.jpg": "empty_file",
        "/loop": "read_error",
        "/to/ftp://example.org/a.jpg": "read_error",
        "/503x99" + photo: "read_error",
        photo + "?token=abc": "read_error",
        photo + "?id=5": "ok",
    }
    uris = [web.url + path for path in statuses] + ["http://nosuchhost.invalid/a.jpg"]
    rows = classify_list(tmp_path, tiny_model, uris, "--allow-private-hosts", "--max-bytes=50K")
    found = {row["uri"].removeprefix(web.url).replace("[redacted]", "abc"): row for row in rows}
    assert {path: found[path]["status"] for path in statuses} == statuses
    assert "no such host" in found["http://nosuchhost.invalid/a.jpg"]["error"]
    assert "redirects" in found["/loop"]["error"]
    assert "noai" in found["/noai.jpg"]["error"]
    assert "a page" in found["/page.jpg"]["error"]
    for row in rows:
        assert "Traceback" not in (row["error"] or "") and "0x" not in (row["error"] or "")


def test_an_answer_that_drips_is_given_up(private, monkeypatch):
    private.headers["/00000.jpg"] = {"drip": "1"}
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 0.5)
    with pytest.raises(Exception, match="bytes came within 0.5 s"):
        read_image(ImageRef(uri=f"{private.url}/00000.jpg"))


def test_an_answer_that_never_begins_is_given_up(private, monkeypatch):
    private.headers["/00000.jpg"] = {"silent": "1"}
    monkeypatch.setattr(protocol, "TIMEOUT", (10.0, 0.2))
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 1.0)
    with pytest.raises(ImageError, match="nothing came for 0.2 s") as raised:
        read_image(ImageRef(uri=f"{private.url}/00000.jpg"))
    assert raised.value.status == "read_error"


def test_bytes_beyond_the_limit_are_not_read(private):
    """Of a body without a length, of one that tells its length, and of one that is packed."""
    private.headers["/00000.jpg"] = {"endless": "1"}
    private.files |= {"/big.jpg": bytes(5_000_000), "/bomb.jpg": bytes(50_000_000)}
    private.headers["/bomb.jpg"] = {"packed": "1"}
    for name in ("/00000.jpg", "/big.jpg", "/bomb.jpg"):
        with pytest.raises(ImageError, match="limit 1,000,000") as raised:
            read_image(ImageRef(uri=f"{private.url}{name}"), max_bytes=1_000_000)
        assert raised.value.status == "too_large"
    assert private.sent < 20_000_000, "what the network takes in on its own, and no more"
    assert read_image(ImageRef(uri=f"{private.url}/00001.jpg")) == private.files["/00001.jpg"]


def test_wrong_lengths_harm_no_other_image(tmp_path, web, tiny_model, expected, monkeypatch):
    """Too long: asked for again. Too short: what comes is cut, and the rest is nobody's answer."""
    monkeypatch.setattr(protocol, "RETRY_SECONDS", 1.0)
    short, long, *others = names(web)
    size = len(web.files[short])
    web.headers[short] = {"Content-Length": str(size - 300)}
    web.headers[long] = {"Content-Length": str(size + 9000), "Connection": "close"}
    flags = ("--allow-private-hosts", "--host-connections=1")
    rows = classify_list(tmp_path, tiny_model, [web.url + name for name in names(web)], *flags)
    found = {row["uri"].removeprefix(web.url): row for row in rows}
    assert (found[short]["status"], found[long]["status"]) == ("truncated", "read_error")
    for name in others:
        assert (found[name]["label"], found[name]["score"]) == expected[name[1:]]


def test_a_list_may_pin_the_version_of_an_address(tmp_path, web, tiny_model):
    WebPolicy(allow_private_hosts=True).apply()
    tags = [store.stat(web.url + name).version for name in names(web)[:2]]
    (tmp_path / "pinned.csv").write_text(
        f"url,etag\n{web.url}/00000.jpg,{tags[0]}\n{web.url}/00001.jpg,{tags[0]}\n"
    )
    rows = _one(tmp_path, tiny_model, f"{tmp_path}/pinned.csv", "--max-failure-rate=1")
    assert sorted((row["etag_or_mtime"], row["status"]) for row in rows) == [
        (tags[0], "not_found"), (tags[0], "ok")
    ]  # fmt: skip


def test_an_archive_on_the_web_is_read_by_ranges(tmp_path, web, tiny_model, expected):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names(web):
            archive.writestr(name[1:], web.files[name])
    web.files["/all.zip"] = packed.getvalue()
    rows = _one(tmp_path, tiny_model, f"{web.url}/all.zip")
    assert {row["uri"].partition("#")[2]: (row["label"], row["score"]) for row in rows} == expected
    web.headers["/all.zip"] = {"no-head": "1"}
    assert len(_one(tmp_path, tiny_model, f"{web.url}/all.zip?v=2")) == PHOTOS


def _one(tmp_path, tiny_model, uri, *flags) -> list[dict]:
    output = f"{tmp_path}/{abs(hash(uri))}"
    assert main(["classify", uri, f"--model={tiny_model}", f"--output={output}", "--no-report",
                 "--allow-private-hosts", *flags]) == 0  # fmt: skip
    return pq.read_table(f"{output}/predictions").to_pylist()


def test_one_image_and_a_list_on_the_web(tmp_path, web, tiny_model):
    [row] = _one(tmp_path, tiny_model, f"{web.url}/00001.jpg")
    assert (row["status"], len(row["etag_or_mtime"])) == ("ok", 12)
    web.files["/lists/some.csv"] = b"url,at\n../00002.jpg,2\n/00003.jpg,3\n"
    rows = _one(tmp_path, tiny_model, f"{web.url}/lists/some.csv?v=1")
    assert sorted((row["uri"], row["at"], row["status"]) for row in rows) == [
        (f"{web.url}/00002.jpg", 2, "ok"), (f"{web.url}/00003.jpg", 3, "ok"),
    ]  # fmt: skip


def test_what_was_replaced_is_not_taken_for_what_was_listed(private):
    uri = f"{private.url}/00001.jpg"
    version = store.stat(uri).version
    assert read_image(ImageRef(uri=uri, etag=version))
    private.files["/00001.jpg"] += b"more"
    with pytest.raises(Exception, match="replaced"):
        read_image(ImageRef(uri=uri, etag=version))


@pytest.mark.parametrize(
    "flags, told",
    [
        (["https://example.invalid/a.tar"], "no such host"),
        (["http://127.0.0.1:1/a.jpg"], "--allow-private-hosts"),
        (["https://h.invalid/a.jpg?X-Amz-Signature=abc"], "signature or key"),
        (["--output=https://example.org/out", "."], "cannot be written there"),
        (["--model=https://example.org/model", "."], "cannot be read from the web"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(tmp_path, web, tiny_model, capfd, flags, told):
    command = ["classify", f"--model={tiny_model}", f"--output={tmp_path}/out", *flags]
    assert main(command) == 2
    said = capfd.readouterr().err
    assert told in said
    assert "Traceback" not in said and "abc" not in said
