"""Which addresses may be asked: nothing of a private network is, unless it is allowed."""

from __future__ import annotations

import socket

import pytest
from web_server import classify_list, names

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage.web import connections, policy
from imagecensus.transforms.storage.web.policy import WebPolicy


def test_nothing_of_a_private_network_is_asked(tmp_path, web, tiny_model):
    [photo, *_] = names(web)
    port = web.url.rpartition(":")[2]
    hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f000001", "2130706433", "127.1"]
    uris = [f"http://{host}:{port}{photo}" for host in hosts] + ["http://169.254.169.254/latest"]
    rows = classify_list(tmp_path, tiny_model, uris, "--ignore-robots")
    assert {row["status"] for row in rows} == {"permission_denied"}
    assert all("--allow-private-hosts" in row["error"] for row in rows)
    assert not web.asked


def test_a_redirect_into_a_private_network_is_not_followed(web, monkeypatch):
    """Of a public host, here made one by name: each hop is looked at."""
    [photo, *_] = names(web)
    public = connections.is_public
    monkeypatch.setattr(connections, "is_public", lambda ip: ip == "127.0.0.1" or public(ip))
    assert read_image(ImageRef(uri=web.url + photo))
    other = web.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(Exception, match="127.0.0.2, an address of a private network"):
        read_image(ImageRef(uri=f"{web.url}/to/{other}{photo}"))


@pytest.mark.parametrize(
    "address, public",
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::", False),
        ("::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a00:1", False),
        ("2002:0a00:0001::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address, public):
    assert connections.is_public(address) == public


def test_a_name_that_changes_its_address_is_looked_at_each_time(web, monkeypatch):
    """DNS rebinding: public when it is judged, private when it is connected to."""
    real, asked = socket.getaddrinfo, []
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "127.0.0.2"]]

    def resolve(host, *rest, **named):
        if host != "rebind.example":
            return real(host, *rest, **named)
        asked.append(host)
        return [entry for ip in answers[len(asked) - 1] for entry in real(ip, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(connections, "is_public", lambda ip: ip == "127.0.0.1")
    WebPolicy(ignore_robots=True).apply()
    address = web.url.replace("127.0.0.1", "rebind.example") + "/00001.jpg"
    assert (
        read_image(ImageRef(uri=address))
        == read_image(ImageRef(uri=address))
        == web.files["/00001.jpg"]
    )
    assert len(asked) == 1, "once for a connection, which is kept"
    for _ in range(2):
        connections._pools.cache_clear()
        with pytest.raises(ImageError, match="127.0.0.2, an address of a private network"):
            read_image(ImageRef(uri=address))
    assert len(asked) == 3


def test_the_policy_travels_to_other_processes():
    given = WebPolicy(allow_private_hosts=True, host_connections=3, image_side=896)
    given.apply()
    assert policy.current() == given
    WebPolicy().apply()
    assert policy.current() == WebPolicy()
