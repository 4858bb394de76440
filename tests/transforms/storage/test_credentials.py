"""A missing credential is said at once, in a sentence that names the remedy."""

from __future__ import annotations

import os
import time

import pytest
from object_servers import forget_clients
from samples import make_photos

from imagecensus.jobs.cli import main
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.read_images import read_image
from imagecensus.transforms.storage import object_clients, store

VARIABLES = ("GOOGLE", "STORAGE_", "GCE_", "AWS_", "AZURE_", "IDENTITY_", "MSI_")


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """An environment and a home without any credentials."""
    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(object_clients, "_firmware_says", lambda _: False)
    forget_clients()
    yield
    forget_clients()


@pytest.mark.parametrize(
    "place, remedy",
    [
        ("s3://bucket/x", "AWS_ACCESS_KEY_ID"),
        ("az://container/x", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("abfss://container@account.dfs.core.windows.net/x", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_without_credentials_it_says_so_at_once(tmp_path, tiny_model, capfd, place, remedy):
    [photo] = make_photos(tmp_path / "in", 1)
    here = {"input": photo, "output": f"{tmp_path}/out", "model": tiny_model}
    begun = time.monotonic()
    for what in here:
        given = here | {what: place}
        command = [given["input"], f"--output={given['output']}", f"--model={given['model']}"]
        assert main(["classify", *command]) == 2
        said = capfd.readouterr().err
        assert remedy in said and "[redacted]" not in said
        assert main(["doctor", *command]) == 1
        assert remedy in capfd.readouterr().out
    assert time.monotonic() - begun < 20


def test_a_profile_in_the_home_folder_is_used(tmp_path, monkeypatch):
    folder = tmp_path / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id=one\naws_secret_access_key=1\n"
        "[museum]\naws_access_key_id=two\naws_secret_access_key=2\naws_session_token=t\n"
    )
    (folder / "config").write_text("[profile museum]\nregion = eu-west-1\n")
    assert object_clients.client("s3", "b").config["access_key_id"] == "one"
    monkeypatch.setenv("AWS_PROFILE", "museum")
    object_clients.client.cache_clear()
    config = object_clients.client("s3", "b").config
    assert (config["access_key_id"], config["region"], config["session_token"]) == (
        "two", "eu-west-1", "t"
    )  # fmt: skip


def test_a_connection_string_is_used(monkeypatch):
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=https;AccountName=museum;AccountKey=a2V5;"
        "EndpointSuffix=core.windows.net",
    )
    assert store.check("az://c/x") == "credentials found"
    assert object_clients.client("az", "c").config["account_name"] == "museum"


def test_an_account_is_named_by_the_uri_or_the_environment(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "one")
    assert object_clients.client("az", "c").config["account_name"] == "one"
    named = object_clients.client("abfss", "c@two.dfs.core.windows.net").config
    assert (named["account_name"], named["container_name"]) == ("two", "c")


def test_the_row_of_an_image_without_credentials_says_the_same():
    with pytest.raises(
        ImageError, match="^s3://: no credentials were found; set AWS_ACCESS"
    ) as row:
        read_image(ImageRef(uri="s3://bucket/x.jpg"))
    assert row.value.status == "read_error"
