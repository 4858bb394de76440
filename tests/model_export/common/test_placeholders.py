"""Files that were never fetched are called so wherever one is named."""

import pytest

from imagecensus.model_export.common.errors import UserError
from imagecensus.model_export.common.placeholders import placeholder
from imagecensus.model_export.decoding.table import open_image
from imagecensus.model_export.image_formats import ImageError
from imagecensus.transforms.inputs.read_list import scan

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"


@pytest.mark.parametrize("content, said", [(POINTER, "git lfs pull"), (PAGE, "a web page")])
def test_a_placeholder_is_named_with_its_remedy(tmp_path, content, said):
    assert said in placeholder(content)
    with pytest.raises(ImageError, match=said) as caught:
        open_image(content)
    assert caught.value.status == "not_an_image"
    for name in ("list.csv", "list.jsonl", "list.json"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            scan(str(tmp_path / name))


def test_other_content_is_none():
    assert not any(map(placeholder, (b"", b"version 2", b"<svg>", b"\xff\xd8\xff")))
