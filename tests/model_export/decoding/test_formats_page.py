"""docs/formats.md is what the table of formats says."""

import pathlib


def test_the_page_of_formats_is_what_the_table_says():
    from imagecensus.model_export.decoding.formats_page import page

    written = pathlib.Path(__file__).parents[3] / "docs" / "formats.md"
    assert written.read_text() == page()  # else: make formats-page
