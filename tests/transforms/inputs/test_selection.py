"""Which files and members patterns choose."""

import tarfile

import pytest

from imagecensus.transforms.inputs.selection import Selection
from imagecensus.transforms.list_images import (
    list_images,
)


def write_files(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("exclude", "include", "kept"),
    [
        (["b"], [], ["a/1.jpg", "a/2.PNG", "c.jpg"]),
        (["a/*.jpg"], [], ["a/2.PNG", "a/b/3.jpg", "c.jpg"]),
        (["a/**/*.jpg"], [], ["a/2.PNG", "c.jpg"]),
        (["*.JPG"], [], ["a/2.PNG"]),
        (["/a"], [], ["c.jpg"]),
        ([], ["*.png"], ["a/2.PNG"]),
        ([], ["a"], ["a/1.jpg", "a/2.PNG", "a/b/3.jpg"]),
        (["b/"], ["a/**"], ["a/1.jpg", "a/2.PNG"]),
        (["[0-9].*"], [], ["c.jpg"]),
        (["[!0-9x].*"], [], ["a/1.jpg", "a/2.PNG", "a/b/3.jpg"]),
        (["[z-a].*", "[", "[\\].jpg", "[1[&&].jpg"], [], ["a/2.PNG", "a/b/3.jpg", "c.jpg"]),
    ],
)
def test_patterns_choose_files_and_members_alike(tmp_path, exclude, include, kept):
    names = ["a/1.jpg", "a/2.PNG", "a/b/3.jpg", "c.jpg"]
    top = tmp_path / "top"
    write_files(top, names)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.add(top / name, name)
    for source in (str(top), str(tmp_path / "x.tar"), f"{top}/**"):
        selection = Selection(exclude=tuple(exclude), include=tuple(include))
        batches = list_images((source,), selection=selection)
        found = {uri for batch in batches for uri in batch.column("uri").to_pylist()}
        wanted = f"{source}#" if source.endswith(".tar") else f"{top}/"
        assert found == {wanted + name for name in kept}
        assert source.endswith("**") or selection.left_out["excluded"] > 0
