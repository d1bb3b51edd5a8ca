"""``benchmarks/kernels.py``: rows and verdicts, without running anything."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest

_FILE = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


@pytest.fixture(scope="module")
def kernels():
    spec = importlib.util.spec_from_file_location("kernels", _FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers():
    return tomllib.loads((_FILE.parent / "peers.toml").read_text())


@pytest.mark.parametrize(
    ("ours", "expected"), [(None, ""), (10, "aim"), (11, "must"), (20, "must"), (21, "missed")]
)
def test_verdict(kernels, ours, expected):
    assert kernels.verdict({"must": 20, "aim": 10}, ours) == expected


@pytest.mark.parametrize(("ours", "expected"), [(95, "aim"), (90, "aim"), (80, "must"), (79, "missed")])
def test_verdict_where_more_is_better(kernels, ours, expected):
    assert kernels.verdict({"must": 80, "aim": 90, "more_is_better": True}, ours) == expected


def test_the_worst_run_counts(kernels):
    def report(arena):
        return {"sizes": {"arena": arena}, "total": {}}

    table = {
        "row": [
            {
                "measure": "arena",
                "runs": [["large", "a"], ["large", "b"], ["small", "a"]],
                "must": 9,
                "aim": 5,
            }
        ]
    }
    found = kernels.rows(table, {("large", "a"): report(4), ("large", "b"): report(7)})
    assert (found[0]["ours"], found[0]["verdict"]) == (7, "must")
    assert kernels.rows(table, {})[0]["ours"] is None


def test_rows_are_complete(kernels, peers):
    for row in peers["row"]:
        assert ("aim" in row) == ("must" in row)
        assert set(row) <= {"what", "measure", "runs", "must", "aim", "more_is_better", *peers["peers"]}
        if "must" in row:
            better = sorted((row["aim"], row["must"]), reverse=row.get("more_is_better", False))
            assert [row["aim"], row["must"]] == better and min(better) >= 0
        if row["measure"].startswith("threads_"):
            continue
        assert row["measure"] in ("instructions", "cycles", "l1_fills", "l2_fills", *kernels._IN_MEMORY)
        if "must" not in row:  # there to compare
            continue
        # What is asked for is better than every peer.
        assert all(row["must"] < row[p] for p in peers["peers"] if p in row)
    networks = {run[0] for row in peers["row"] for run in row["runs"]}
    assert networks == {"large", "small"}
