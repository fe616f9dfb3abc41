"""Saving a picture: into folders that are not there yet, in formats that exist."""

import pytest

from lede.replay.errors import DatasetError
from lede.replay.pictures import check_format, figure, save


def test_missing_folders_are_made_and_the_suffix_says_the_format(tmp_path):
    path = save(figure(2, 1), tmp_path / "a" / "b c" / "x.SVG")
    assert path.read_text().startswith("<?xml")
    assert save(figure(2, 1), tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["x", "x.docx", ".png"])
def test_a_format_that_cannot_be_drawn_is_named_with_those_that_can(tmp_path, name):
    for refuse in (check_format, lambda path: save(figure(2, 1), path)):
        with pytest.raises(DatasetError, match=r"the name must end in one of .*\.pdf, .*\.png"):
            refuse(tmp_path / "new" / name)
    assert not list(tmp_path.iterdir())
