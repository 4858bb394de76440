"""The one cache folder."""

import pytest

from imagecensus.model_export.common.cache import cache_folder
from imagecensus.model_export.common.errors import UserError


def test_the_variable_moves_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGECENSUS_CACHE", str(tmp_path / "c"))
    assert cache_folder("hub") == str(tmp_path / "c" / "hub")
    assert (tmp_path / "c" / "hub").is_dir()


def test_where_it_cannot_be_written_the_variable_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv("IMAGECENSUS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="IMAGECENSUS_CACHE=FOLDER"):
        cache_folder("models")
