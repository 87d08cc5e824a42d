"""docs/results.md: what recorded results make of it, and what becomes of damaged ones."""

import functools
import json

import pytest

from launch import results_page
from launch.experiments import EXPERIMENTS, figure5


def test_page_of_results_is_what_the_recorded_files_make_of_it():
    text = results_page.text(results_page.RESULTS, results_page.PAGE.parent)
    assert text == results_page.PAGE.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")][:-1] == [
        f"## {experiment.title}" for experiment in EXPERIMENTS
    ]


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (lambda text: text[:-30], "table6_toys_cpu.json", "damaged or not a JSON file"),
        (
            lambda text: text.replace('"command"', '"commando"'),
            "table6_toys_cpu.json",
            "lacks command",
        ),
        # Named for all datasets: it is shown with them.
        (
            lambda text: text.replace('"mean_length"', '"men_length"'),
            "table6_*.json",
            "damaged or not a result",
        ),
        (
            lambda text: text.replace('"users"', '"user"'),
            "table6_*.json",
            "damaged or not a result",
        ),
    ],
)
def test_the_page_names_a_damaged_result(damage, file, message, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    results.mkdir()
    text = (results_page.RESULTS / "table6_toys_cpu.json").read_text()
    path = results / "table6_toys_cpu.json"
    path.write_text(damage(text))
    monkeypatch.setattr(results_page, "write", functools.partial(results_page.write, results))
    with pytest.raises(SystemExit) as end:
        results_page.main([])
    assert end.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {results / file}: {message}")
    assert "make it again with launch.reproduce table6" in line
    assert not (results / "results.md").exists()


def test_the_rules_of_cold_start_are_told_for_each_seed():
    recorded = json.loads((results_page.RESULTS / "figure5_beauty_cpu.json").read_text())
    [first] = recorded["values"]["runs"]
    second = json.loads(json.dumps(first)) | {"seed": 1}
    name = list(first["rows"])[-1]
    setting = next(iter(second["rows"][name]["settings"]))
    second["rows"][name]["settings"][setting] = 4321
    assert "Chosen for seed" not in figure5.show([recorded])
    recorded["values"]["runs"].append(second)
    found = figure5.show([recorded]).split("Chosen for seed ")[1:]
    assert [f"{setting} 4321" in section.split("\n")[0] for section in found] == [False, True]
