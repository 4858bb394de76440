"""What servers say of being asked: robots.txt, tags, pauses, connections at a time."""

from __future__ import annotations

import time

import pytest
from web_server import classify_list, names

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage.web import manners


def test_robots_txt_is_asked_once_and_heeded(tmp_path, web, tiny_model):
    web.files["/robots.txt"] = b"User-agent: *\nDisallow: /00003.jpg\n"
    uris = [web.url + name for name in names(web)]
    rows = classify_list(tmp_path, tiny_model, uris)
    denied = [row for row in rows if row["status"] != "ok"]
    assert [row["uri"] for row in denied] == [f"{web.url}/00003.jpg"]
    assert "robots.txt" in denied[0]["error"]
    assert web.asked.count("/robots.txt") == 1
    rows = classify_list(
        tmp_path, tiny_model, uris, "--allow-private-hosts", "--ignore-robots", output="all"
    )
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize(
    "status, ok", [(404, True), (403, True), (418, True), (500, False), (503, False)]
)
def test_a_host_that_cannot_be_asked_for_its_rules_forbids_all(private, monkeypatch, status, ok):
    """RFC 9309, 2.3.1: none at 4xx, all forbidden at 5xx, which is no lasting answer."""
    [photo, *_] = names(private)
    private.files["/robots.txt"] = b""
    private.headers["/robots.txt"] = {"status": str(status)}
    if ok:
        assert read_image(ImageRef(uri=private.url + photo)) == private.files[photo]
        return
    monkeypatch.setattr(manners, "_FAILURE_SECONDS", 0.5)
    for _ in range(2):
        with pytest.raises(ImageError, match=f"robots.txt cannot be read: .*{status}") as raised:
            read_image(ImageRef(uri=private.url + photo))
        assert raised.value.status == "read_error"
    assert private.asked == ["/robots.txt"] * 5, "the second image of the host asks nothing"
    del private.headers["/robots.txt"]
    time.sleep(0.6)
    assert read_image(ImageRef(uri=private.url + photo)) == private.files[photo]


@pytest.mark.parametrize(
    "values, tag",
    [
        (["noai"], "noai"), (["index, NoIndex"], "noindex"), (["none"], "none"),
        (["imagecensus: noai"], "noai"), (["googlebot: noai, noindex"], ""), (["all"], ""),
        ([], ""),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], ""), (["all", "noimageai"], "noimageai"),
        (["max-snippet:5, noindex"], "noindex"),
    ],
)  # fmt: skip
def test_what_a_robots_tag_forbids(values, tag):
    assert manners.forbidding_tag(values) == tag


def test_a_server_is_asked_again_when_it_says(private, monkeypatch):
    [photo, *_] = names(private)
    begun = time.monotonic()
    assert read_image(ImageRef(uri=f"{private.url}/retryafterx1{photo}")) == private.files[photo]
    assert time.monotonic() - begun > 0.9


def test_a_host_gets_so_many_connections_at_most(tmp_path, web, tiny_model):
    web.delay = 0.02
    uris = [f"{web.url}{name}?{at}" for name in names(web) for at in range(4)]
    classify_list(tmp_path, tiny_model, uris, "--allow-private-hosts", "--host-connections=3")
    assert 2 <= web.most <= 3
