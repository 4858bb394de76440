"""What is said of a library's error."""

import pytest

from imagecensus.model_export.common.errors import first_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (OSError(2, "gone"), "[Errno 2] gone"),
    ],
)
def test_the_first_line_of_an_error(error, said):
    assert first_line(error) == said
