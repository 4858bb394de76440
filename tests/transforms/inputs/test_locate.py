"""From the text of a list to the uri of an image."""

import os

import pytest
from listings import listed, uris
from samples import make_photos

from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.image_ref import ImageRef
from imagecensus.transforms.inputs.locate import resolve
from imagecensus.transforms.read_images import read_image


def test_addresses_of_other_stores_stay_as_they_are(tmp_path):
    (photo,) = make_photos(tmp_path, 1)
    others = ["abfs://box@account/x.jpg", "hdfs://host/x.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["path", *others, f"file://localhost{photo}"]))
    assert uris(tmp_path / "list.csv") == [*others, photo]
    with pytest.raises(ImageError, match="hdfs:// is not read here"):
        read_image(ImageRef(uri=others[1]))


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_blanks_and_backslashes_are_believed_where_a_file_is(tmp_path):
    (path,) = make_photos(tmp_path / "in", 1)
    spaced = os.path.join(tmp_path, "in", "b.jpg ")
    os.link(path, spaced)
    write(tmp_path / "list.txt", " in/00000.jpg \nin\\00000.jpg\nin/b.jpg \nno/such.jpg \n")
    found = [row["uri"] for row in listed(tmp_path / "list.txt")]
    assert found == [path, path, spaced, f"{tmp_path}/no/such.jpg "]
    # As Windows copies a path; a name that has the quotes itself is that file.
    write(tmp_path / "list.txt", f'"in\\00000.jpg"\n\'{path}\'\n"no.jpg"\n')
    found = [row["uri"] for row in listed(tmp_path / "list.txt")]
    assert found == [path, path, f'{tmp_path}/"no.jpg"']
    os.link(path, tmp_path / '"no.jpg"')
    assert [row["size"] for row in listed(tmp_path / "list.txt")] == [os.stat(path).st_size] * 3


def test_resolve_is_one_rule(tmp_path):
    assert resolve("a.jpg", "/x") == "/x/a.jpg"
    assert resolve("../a.jpg", "gs://b/c/d") == "gs://b/c/a.jpg"
    assert resolve("/a.jpg", "gs://b") == "/a.jpg"
    assert resolve("file:///a%20b.jpg", "") == "/a b.jpg"
    assert resolve("file://localhost/a.jpg", "/x") == "/a.jpg"
    assert resolve("file:/a%20b.jpg", "/x") == "/a b.jpg"
    assert resolve("file:///b%FF.jpg", "") == "file:///b%FF.jpg"
    assert resolve("hdfs://h/a.jpg", "/x") == "hdfs://h/a.jpg"
