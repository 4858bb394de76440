import pytest

from imagecensus.jobs.classification.worker_errors import user_error_in, user_errors
from imagecensus.model_export.common.errors import UserError
from imagecensus.transforms.storage.store import StorageError

TEXT = """Traceback (most recent call last):
  File "x.py", line 3, in process
store.StorageError: /out/a: cannot be written: No space left [while running 'W/ParDo']
"""


def test_a_user_error_in_a_workers_traceback_is_found():
    assert user_error_in(TEXT) == "/out/a: cannot be written: No space left"


def test_other_tracebacks_hold_none():
    assert user_error_in("Traceback …\nValueError: x") is None
    assert user_error_in("") is None


def test_it_is_raised_in_the_place_of_the_runners_error():
    with pytest.raises(UserError, match="No space left"), user_errors():
        raise RuntimeError(TEXT)
    with pytest.raises(RuntimeError, match="else"), user_errors():
        raise RuntimeError("something else")
    with pytest.raises(StorageError), user_errors():
        raise StorageError("as it is")


def test_an_engine_that_cannot_be_fetched_is_no_defect():
    text = "Unable to fetch remote prism binary at https://h/prism.zip: no network"
    remedy = "no network; name one that is here with --prism_location"
    with pytest.raises(UserError, match=remedy), user_errors():
        raise RuntimeError(text)
