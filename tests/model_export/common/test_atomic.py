"""Files and folders that appear whole or not at all."""

import os

import pytest

from imagecensus.model_export.common.atomic import atomic_folder, atomic_path


def fill_and_fail(path):
    with open(path, "w") as file:
        file.write("two")
    raise ValueError


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file"
    path.parent.mkdir()
    with atomic_path(str(path)) as partial:
        with open(partial, "w") as file:
            file.write("one")
        assert not path.exists()
    mask = os.umask(0o022)
    os.umask(mask)
    assert path.read_text() == "one" and path.stat().st_mode & 0o777 == 0o666 & ~mask
    with pytest.raises(ValueError), atomic_path(str(path)) as partial:
        fill_and_fail(partial)
    assert path.read_text() == "one" and os.listdir(path.parent) == ["file"]


def test_a_folder_takes_the_place_of_another(tmp_path):
    path = tmp_path / "new" / "folder"
    for name in ("one", "two"):
        with atomic_folder(str(path)) as partial:
            open(os.path.join(partial, name), "w").close()
    assert os.listdir(path) == ["two"]
    with pytest.raises(ValueError), atomic_folder(str(path)):
        raise ValueError
    with atomic_folder(str(path), replace=False) as partial:
        open(os.path.join(partial, "three"), "w").close()
    assert os.listdir(path) == ["two"] and os.listdir(path.parent) == ["folder"]
