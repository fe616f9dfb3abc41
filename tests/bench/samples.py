"""Samples made by hand."""

from lede.bench.measure import Sample

TEXT = (1, 2, 3, 4)


def sample(method: str, prompt: str = "a", tokens=TEXT, seconds=1.0, **more) -> Sample:
    """Two rounds of which one drafted three tokens at layer 5, two of them rightly."""
    usual = {"exits": (5, None), "drafts": (3, 0), "accepts": (2, 0), "commits": (3, 1)}
    return Sample(method, prompt, "t", tuple(tokens), seconds, **usual | more)


def plain(method: str, prompt: str = "a", tokens=TEXT, **more) -> Sample:
    """A round a token, none of which drafted."""
    nothing = (0,) * len(tokens)
    usual = {"exits": (None,) * len(tokens), "drafts": nothing, "accepts": nothing, "commits": (1,) * len(tokens)}
    return sample(method, prompt, tokens, **usual | more)
