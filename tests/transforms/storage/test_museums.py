"""IIIF servers and manifests, and datasets of the Hugging Face Hub, on loopback stand-ins."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import make_photos
from web_server import WebServer

from imagecensus.jobs.cli import main
from imagecensus.transforms.storage import protocol, store
from imagecensus.transforms.storage.web import connections, manners
from imagecensus.transforms.storage.web.iiif import sized, unsized
from imagecensus.transforms.storage.web.policy import WebPolicy

BASE = "https://iiif.example.org/image/2/a%2Fb"


@pytest.fixture
def web(tmp_path, monkeypatch):
    server = WebServer()
    for at, path in enumerate(make_photos(tmp_path / "photos", 4)):
        with open(path, "rb") as file:
            server.files[f"/photo{at}"] = file.read()
    monkeypatch.setattr(protocol, "RETRY_PAUSE", (0.02, 0.2))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    manners.forget()
    connections._pools.cache_clear()
    yield server
    WebPolicy().apply()
    server.stop()


def _classify(tmp_path, tiny_model, *inputs, expected=0) -> list[dict]:
    output = f"{tmp_path}/out"
    assert main(["classify", *inputs, f"--model={tiny_model}", f"--output={output}", "--no-report",
                 "--allow-private-hosts", "--max-failure-rate=1"]) == expected  # fmt: skip
    return pq.read_table(f"{output}/predictions").sort_by("uri").to_pylist()


@pytest.mark.parametrize(
    "uri, asked",
    [
        (f"{BASE}/full/full/0/default.jpg", f"{BASE}/full/!896,896/0/default.jpg"),
        (f"{BASE}/full/max/0/native.png", f"{BASE}/full/!896,896/0/native.png"),
        (f"{BASE}/info.json", f"{BASE}/full/!896,896/0/default.jpg"),
        (f"{BASE}/full/600,/0/default.jpg", f"{BASE}/full/600,/0/default.jpg"),
        (f"{BASE}/0,0,9,9/max/0/default.jpg", f"{BASE}/0,0,9,9/max/0/default.jpg"),
        (f"{BASE}/full/max/90/default.jpg", f"{BASE}/full/max/90/default.jpg"),
        (f"{BASE}/full/max/0/default.jpg?v=1", f"{BASE}/full/max/0/default.jpg?v=1"),
        ("https://example.org/a.jpg", "https://example.org/a.jpg"),
    ],
)
def test_the_size_that_is_asked_for(uri, asked):
    assert sized(uri, 896) == asked
    assert sized(asked, 896) == asked
    assert sized(f"{BASE}/info.json", 0) == f"{BASE}/full/max/0/default.jpg"


def test_where_the_whole_image_may_be():
    assert unsized(f"{BASE}/full/!896,896/0/default.jpg") == f"{BASE}/full/max/0/default.jpg"
    assert unsized(f"{BASE}/full/max/0/default.jpg") == f"{BASE}/full/full/0/default.jpg"
    assert not unsized(f"{BASE}/full/full/0/default.jpg")
    assert not unsized("https://example.org/a.jpg")


def test_the_row_says_which_size_was_asked_for(tmp_path, web, tiny_model):
    """One server makes sizes, one only the whole image, as version 2 calls it."""
    web.files["/iiif/one/full/!128,128/0/default.jpg"] = web.files["/photo0"]
    web.files["/iiif/two/full/full/0/default.jpg"] = web.files["/photo1"]
    (tmp_path / "list.txt").write_text(
        f"{web.url}/iiif/one/info.json\n{web.url}/iiif/two/full/max/0/default.jpg\n"
    )
    one, two = _classify(tmp_path, tiny_model, f"{tmp_path}/list.txt")
    side = one["uri"].partition("!")[2].partition(",")[0]
    assert one["uri"] == f"{web.url}/iiif/one/full/!{side},{side}/0/default.jpg"
    assert (one["status"], two["status"]) == ("not_found" if side != "128" else "ok", "ok")
    assert f"/iiif/one/full/!{side},{side}/0/default.jpg" in web.asked


def _manifest_2(web) -> dict:
    def canvas(label, resource):
        return {"@type": "sc:Canvas", "label": label, "images": [{"resource": resource}]}

    return {
        "@context": "http://iiif.io/api/presentation/2/context.json",
        "@type": "sc:Manifest",
        "sequences": [{"canvases": [
            canvas("1r", {"@id": f"{web.url}/photo0", "@type": "dctypes:Image"}),
            canvas([{"@value": "1v", "@language": "en"}], {"@type": "oa:Choice", "default": {
                "@id": f"{web.url}/photo1", "@type": "dctypes:Image"}}),
            canvas("sound", {"@id": f"{web.url}/a.mp3", "@type": "dctypes:Sound"}),
        ]}],
    }  # fmt: skip


def _manifest_3(web) -> dict:
    def canvas(label, body, motivation="painting"):
        annotation = {"type": "Annotation", "motivation": motivation, "body": body}
        page = {"type": "AnnotationPage", "items": [annotation]}
        return {"type": "Canvas", "label": {"en": [label]}, "items": [page]}

    service = {"id": f"{web.url}/iiif/x", "type": "ImageService3", "profile": "level2"}
    return {
        "@context": ["http://www.w3.org/ns/anno.jsonld",
                     "http://iiif.io/api/presentation/3/context.json"],
        "type": "Manifest",
        "items": [
            canvas("front", {"id": f"{web.url}/photo2", "type": "Image"}),
            canvas("back", {"id": f"{web.url}/big", "type": "Image", "service": [service]}),
            canvas("note", {"id": f"{web.url}/photo3", "type": "Image"}, "commenting"),
        ],
    }  # fmt: skip


def test_manifests_of_both_versions_are_lists(tmp_path, web, tiny_model):
    web.files["/iiif/x/full/max/0/default.jpg"] = web.files["/photo3"]
    web.files["/book/manifest"] = json.dumps(_manifest_2(web)).encode()
    (tmp_path / "object.json").write_text(json.dumps(_manifest_3(web)))
    inputs = [f"{web.url}/book/manifest", f"{tmp_path}/object.json"]
    rows = _classify(tmp_path, tiny_model, *inputs)
    assert {row["iiif_label"]: row["status"] for row in rows} == {
        "1r": "ok", "1v": "ok", "front": "ok", "back": "ok"
    }  # fmt: skip
    assert {row["iiif_manifest"] for row in rows} == set(inputs)
    [back] = [row["uri"] for row in rows if row["iiif_label"] == "back"]
    assert back.startswith(f"{web.url}/iiif/x/full/!")


def test_a_collection_is_followed_and_ends(tmp_path, web, tiny_model):
    context = "http://iiif.io/api/presentation/3/context.json"
    top, inner = f"{web.url}/top.json", f"{web.url}/inner.json"
    web.files["/top.json"] = json.dumps({"@context": context, "type": "Collection", "items": [
        {"id": inner, "type": "Collection"}, {"id": f"{web.url}/gone.json", "type": "Manifest"},
    ]}).encode()  # fmt: skip
    web.files["/inner.json"] = json.dumps({"@context": context, "type": "Collection", "items": [
        {"id": top, "type": "Collection"}, {"id": f"{web.url}/m.json", "type": "Manifest"},
    ]}).encode()  # fmt: skip
    web.files["/m.json"] = json.dumps(_manifest_2(web)).encode()
    rows = _classify(tmp_path, tiny_model, top, expected=1)  # one could not be listed
    assert sorted((row["uri"].rpartition("/")[2], row["status"]) for row in rows) == [
        ("gone.json", "read_error"), ("photo0", "ok"), ("photo1", "ok"),
    ]  # fmt: skip
    assert "manifest cannot be read" in next(r["error"] for r in rows if r["error"])


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds no JSON objects"),
        ('{"@context": "http://schema.org"}', "no column of locations among @context"),
        ('{"a": "iiif.io/api/presentation"}', "is no IIIF manifest"),
    ],
)
def test_other_json_is_refused_in_a_sentence(tmp_path, tiny_model, capfd, text, told):
    (tmp_path / "list.json").write_text(text)
    command = ["classify", f"{tmp_path}/list.json", f"--model={tiny_model}"]
    assert main([*command, f"--output={tmp_path}/out"]) == 2
    said = capfd.readouterr().err
    assert told in said and "Traceback" not in said


@pytest.fixture
def hub(web, monkeypatch, own_decoders):
    """The two endpoints of the Hub that are used."""
    pytest.importorskip("huggingface_hub")
    files = {f"train/{at}.jpg": web.files[f"/photo{at}"] for at in range(3)}
    table = pa.table({"image": [{"bytes": web.files["/photo3"], "path": "p.jpg"}]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files["data/train.parquet"] = sink.getvalue().to_pybytes()
    tree = []
    for name, data in files.items():
        entry = {"type": "file", "path": name, "size": len(data), "oid":
                 hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}  # fmt: skip
        if name.endswith("parquet"):
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(data), "pointerSize": 130}
        tree.append(entry)
        web.files[f"/datasets/museum/birds/resolve/main/{name}"] = data
        web.headers[f"/datasets/museum/birds/resolve/main/{name}"] = {"ETag": f'"{entry["oid"]}"'}
    api = "/api/datasets/museum/birds/tree/main"
    json_type = {"Content-Type": "application/json"}
    information = "/api/datasets/museum/birds/paths-info/main"
    for path, found in (
        (information, tree),
        (api, tree),
        (f"{api}/train", tree[:3]),
        (f"{api}/data", tree[3:]),
    ):
        web.files[path], web.headers[path] = json.dumps(found).encode(), json_type
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    WebPolicy(allow_private_hosts=True).apply()
    return web


def test_a_dataset_of_the_hub(tmp_path, hub, tiny_model):
    rows = _classify(tmp_path, tiny_model, "hf://datasets/museum/birds")
    assert not [row["error"] for row in rows if row["error"]]
    assert [(row["uri"], row["status"]) for row in rows] == [
        ("hf://datasets/museum/birds/data/train.parquet#0", "ok")
        if "#" in row["uri"] else (f"hf://datasets/museum/birds/train/{at}.jpg", "ok")
        for at, row in enumerate(rows, -1)
    ]  # fmt: skip
    assert len(rows) == 4
    assert all(len(row["etag_or_mtime"]) in (40, 64) for row in rows)


def test_a_glob_in_a_dataset_of_the_hub(tmp_path, hub, tiny_model):
    rows = _classify(tmp_path, tiny_model, "hf://datasets/museum/birds/train/[12].jpg")
    assert [row["uri"][-5:] for row in rows] == ["1.jpg", "2.jpg"]


def test_a_file_of_the_hub_that_changed_is_noticed(hub):
    uri = "hf://datasets/museum/birds/train/0.jpg"
    [listed] = list(store.store_of(uri).list(uri))
    assert store.read(uri, listed.version) == hub.files["/photo0"]
    hub.files["/datasets/museum/birds/resolve/main/train/0.jpg"] += b"more"
    with pytest.raises(FileNotFoundError, match="replaced"):
        store.read(uri, listed.version)


@pytest.mark.parametrize(
    "flags, told",
    [
        (["hf://datasets/museum/none"], "no such dataset"),
        (["hf://datasets/museum"], "names no dataset"),
        (["--output=hf://datasets/museum/birds/out", "."], "cannot be written"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(tmp_path, hub, tiny_model, capfd, flags, told):
    hub.headers["/api/datasets/museum/none/tree/main"] = {"X-Error-Code": "RepoNotFound"}
    command = ["classify", f"--model={tiny_model}", f"--output={tmp_path}/out", *flags]
    assert main(command) == 2
    said = capfd.readouterr().err
    assert told in said and "Traceback" not in said
