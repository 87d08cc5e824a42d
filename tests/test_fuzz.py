"""A short campaign of `fuzz_readers`, the same inputs every time."""

import pathlib

import pytest
from fuzz_readers import Campaign


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("fuzz"))


def test_every_reader_returns_a_value_or_one_line(campaign, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs pip install -e .[parquet]")
    monkeypatch.chdir(campaign.folder)
    for name in campaign.readers():
        campaign.run(name, examples=25, derandomize=True)
        # Both outcomes, or the inputs were not what they are meant to be.
        outcomes = campaign.outcomes[name]
        assert outcomes["read"] > 0, name
        assert outcomes["refused"] > 0 or name == "metrics.jsonl", name
    assert not list(pathlib.Path().rglob("*.tmp"))
