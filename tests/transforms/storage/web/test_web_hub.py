"""IIIF servers and manifests, and datasets of the Hugging Face Hub, on loopback stand-ins."""

from __future__ import annotations

import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagecensus.jobs.cli import main
from imagecensus.transforms.storage import store
from imagecensus.transforms.storage.web.policy import WebPolicy


@pytest.fixture
def hub(web, monkeypatch, own_decoders):
    """The two endpoints of the Hub that are used."""
    pytest.importorskip("huggingface_hub")
    files = {f"train/{at}.jpg": web.files[f"/{at:05d}.jpg"] for at in range(3)}
    table = pa.table({"image": [{"bytes": web.files["/00003.jpg"], "path": "p.jpg"}]})
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


def test_a_dataset_of_the_hub(hub, classified):
    rows = classified("hf://datasets/museum/birds")
    assert not [row["error"] for row in rows if row["error"]]
    assert [(row["uri"], row["status"]) for row in rows] == [
        ("hf://datasets/museum/birds/data/train.parquet#0", "ok")
        if "#" in row["uri"] else (f"hf://datasets/museum/birds/train/{at}.jpg", "ok")
        for at, row in enumerate(rows, -1)
    ]  # fmt: skip
    assert len(rows) == 4
    assert all(len(row["etag_or_mtime"]) in (40, 64) for row in rows)


def test_a_glob_in_a_dataset_of_the_hub(hub, classified):
    rows = classified("hf://datasets/museum/birds/train/[12].jpg")
    assert [row["uri"][-5:] for row in rows] == ["1.jpg", "2.jpg"]


def test_a_file_of_the_hub_that_changed_is_noticed(hub):
    uri = "hf://datasets/museum/birds/train/0.jpg"
    [listed] = list(store.store_of(uri).list(uri))
    assert store.read(uri, listed.version) == hub.files["/00000.jpg"]
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
def test_mistakes_are_reported_in_a_sentence(tmp_path, hub, tiny_model, capfd, flags, told):
    hub.headers["/api/datasets/museum/none/tree/main"] = {"X-Error-Code": "RepoNotFound"}
    command = ["classify", f"--model={tiny_model}", f"--output={tmp_path}/out", *flags]
    assert main(command) == 2
    said = capfd.readouterr().err
    assert told in said and "Traceback" not in said
