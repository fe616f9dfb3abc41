"""The measurement of learning speed runs, and both buffers it compares hold the same transitions."""

import json

import numpy as np
from lede.bench.learn import made_up, main, stock_buffer

from lede.learn.buffer import ColumnBuffer
from lede.learn.config import LearnConfig
from tests.learn.toy import write_known


def test_both_buffers_hold_the_same():
    columns = made_up(500, features=5)
    stock = stock_buffer(columns, columns.observations, LearnConfig(n_steps=2, gamma=0.9))
    ours = ColumnBuffer(columns, columns.observations, 2, 0.9, np.random.default_rng(0))
    assert stock.transition_count == ours.transition_count < len(columns.actions)


def test_prints_a_table_or_json(tmp_path, capsys):
    main(["--updates", "5"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["batch", "32", "256"]
    write_known(tmp_path / "d", episodes=4)
    main(["--updates", "5", "--json", "--dataset", str(tmp_path / "d")])
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["batch"] for result in results] == [32, 256]
    assert all(result[name] > 0 for result in results for name in ("columns", "stock", "stack"))
