"""IIIF servers and manifests on a loopback stand-in."""

from __future__ import annotations

import json

import pytest

from imagecensus.jobs.cli import main
from imagecensus.transforms.storage.web.iiif import sized, unsized

BASE = "https://iiif.example.org/image/2/a%2Fb"


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


def test_the_row_says_which_size_was_asked_for(tmp_path, web, classified):
    """One server makes sizes, one only the whole image, as version 2 calls it."""
    web.files["/iiif/one/full/!128,128/0/default.jpg"] = web.files["/00000.jpg"]
    web.files["/iiif/two/full/full/0/default.jpg"] = web.files["/00001.jpg"]
    (tmp_path / "list.txt").write_text(
        f"{web.url}/iiif/one/info.json\n{web.url}/iiif/two/full/max/0/default.jpg\n"
    )
    one, two = classified(f"{tmp_path}/list.txt")
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
            canvas("1r", {"@id": f"{web.url}/00000.jpg", "@type": "dctypes:Image"}),
            canvas([{"@value": "1v", "@language": "en"}], {"@type": "oa:Choice", "default": {
                "@id": f"{web.url}/00001.jpg", "@type": "dctypes:Image"}}),
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
            canvas("front", {"id": f"{web.url}/00002.jpg", "type": "Image"}),
            canvas("back", {"id": f"{web.url}/big", "type": "Image", "service": [service]}),
            canvas("note", {"id": f"{web.url}/00003.jpg", "type": "Image"}, "commenting"),
        ],
    }  # fmt: skip


def test_manifests_of_both_versions_are_lists(tmp_path, web, classified):
    web.files["/iiif/x/full/max/0/default.jpg"] = web.files["/00003.jpg"]
    web.files["/book/manifest"] = json.dumps(_manifest_2(web)).encode()
    (tmp_path / "object.json").write_text(json.dumps(_manifest_3(web)))
    inputs = [f"{web.url}/book/manifest", f"{tmp_path}/object.json"]
    rows = classified(*inputs)
    assert {row["iiif_label"]: row["status"] for row in rows} == {
        "1r": "ok", "1v": "ok", "front": "ok", "back": "ok"
    }  # fmt: skip
    assert {row["iiif_manifest"] for row in rows} == set(inputs)
    [back] = [row["uri"] for row in rows if row["iiif_label"] == "back"]
    assert back.startswith(f"{web.url}/iiif/x/full/!")


def test_a_collection_is_followed_and_ends(web, classified):
    context = "http://iiif.io/api/presentation/3/context.json"
    top, inner = f"{web.url}/top.json", f"{web.url}/inner.json"
    web.files["/top.json"] = json.dumps({"@context": context, "type": "Collection", "items": [
        {"id": inner, "type": "Collection"}, {"id": f"{web.url}/gone.json", "type": "Manifest"},
    ]}).encode()  # fmt: skip
    web.files["/inner.json"] = json.dumps({"@context": context, "type": "Collection", "items": [
        {"id": top, "type": "Collection"}, {"id": f"{web.url}/m.json", "type": "Manifest"},
    ]}).encode()  # fmt: skip
    web.files["/m.json"] = json.dumps(_manifest_2(web)).encode()
    rows = classified(top, expected=1)  # one could not be listed
    assert sorted((row["uri"].rpartition("/")[2], row["status"]) for row in rows) == [
        ("00000.jpg", "ok"), ("00001.jpg", "ok"), ("gone.json", "read_error"),
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
