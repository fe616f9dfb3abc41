"""The names that commands check are those of what they name."""

from lede.bench import names, paper
from lede.simulate import baselines


def test_every_name_has_its_maker():
    assert tuple(baselines.BASELINES) == names.FAMILIES
    assert set(names.ABLATIONS) <= names.POLICY_OF.keys()
    assert set(paper.METHODS) <= set(names.METHODS)
    assert len(set(names.METHODS)) == len(names.METHODS)
