"""Benches are real but short: little time for costs, few configurations to tune."""

from functools import partial

import pytest

from lede.bench import check, methods, tune

SECONDS = 0.2  # of measuring costs


@pytest.fixture(scope="package", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "measure_costs", partial(methods.measure_costs, seconds=SECONDS))
        patch.setattr(check, "SECONDS", SECONDS)
        patch.setattr(tune, "CONFIGURATIONS", 6)
        patch.setattr(tune, "FINALISTS", 2)
        yield
