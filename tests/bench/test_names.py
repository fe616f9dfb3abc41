"""The names that commands check are those of what they name."""

from bench import families, names, paper
from bench.methods import ABLATIONS


def test_every_name_has_its_maker():
    assert tuple(families.FAMILIES) == names.FAMILIES
    assert ABLATIONS.keys() <= names.POLICY_OF.keys()
    assert set(paper.METHODS) <= set(names.METHODS)
    assert len(set(names.METHODS)) == len(names.METHODS)
