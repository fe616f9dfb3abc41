"""d3rlpy, imported without its side effects, and kept quiet while it runs.

Importing d3rlpy prints a notice of the old `gym` it depends on, sets two environment variables and, where there is a
GPU, torch's precision for the whole process. Its own log goes to standard output. None of that may reach a user.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def _untouched_process() -> Iterator[None]:
    environment = dict(os.environ)
    precision = torch.get_float32_matmul_precision()
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        os.environ.clear()
        os.environ.update(environment)


with _untouched_process():
    import d3rlpy
    import structlog  # d3rlpy's logger
    from threadpoolctl import threadpool_limits


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence d3rlpy's log, which says at length what `learning.csv` says in a table."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


__all__ = ["d3rlpy", "quiet", "threadpool_limits"]
