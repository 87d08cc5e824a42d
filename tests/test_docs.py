"""Numbers in the README are those of results/, and its links and paths exist."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


def row(name, scores):
    cells = ["{value:.4f} ({low:.4f}-{high:.4f})".format(**scores[metric]) for metric in METRICS]
    return f"| {name} | {' | '.join(cells)} |"


@pytest.mark.parametrize("dataset", ["beauty", "sports", "toys"])
def test_table_of_results_equals_the_recorded_evaluation(dataset):
    result = json.loads((ROOT / "results" / f"{dataset}_cpu.json").read_text())
    table9 = json.loads((ROOT / "results" / f"table9_{dataset}_cpu.json").read_text())
    tiger = table9["values"]["rows"]["TIGER"]
    # As the text above the table says.
    assert tiger["seeds"] == [0, 1, 2]
    assert "small-budget* model, the mean of three seeds" in README
    scores = {
        "TIGER, history removed": tiger["scores"],
        "TIGER, history kept": tiger["with_history_items"],
    }
    scores |= {name.replace("_", " "): each for name, each in result["baselines"].items()}
    for name, each in scores.items():
        assert row(f"{dataset.capitalize()}: {name}", each) in README


@pytest.mark.parametrize("dataset", ["beauty", "sports", "toys"])
def test_table_of_sasrec_equals_the_recorded_run(dataset):
    result = json.loads((ROOT / "results" / f"table1_{dataset}_cpu.json").read_text())
    scores = result["values"]["rows"]["SASRec with softmax loss"]
    page = (ROOT / "docs" / "baselines.md").read_text()
    name = dataset.capitalize()
    assert row(f"{name}, history removed", scores["scores"]) in page
    assert row(f"{name}, history kept", scores["with_history_items"]) in page


def test_readme_is_a_map_of_at_most_250_lines():
    assert len(README.splitlines()) <= 250


def test_links_and_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"^  (\w+\.py) ", README, re.MULTILINE):
        assert (ROOT / "tiger_jax" / name).is_file(), name
    for path in re.findall(r"`(gin/[\w/]+\.gin)`", README):
        assert (ROOT / path).is_file(), path


def test_every_module_is_on_the_map():
    on_the_map = set(re.findall(r"^  (\w+\.py) ", README, re.MULTILINE))
    modules = {path.name for path in (ROOT / "tiger_jax").glob("*.py")} - {"__init__.py"}
    assert on_the_map == modules


def test_table_of_the_training_is_that_of_the_recorded_benchmark():
    page = (ROOT / "docs" / "training.md").read_text()
    result = json.loads((ROOT / "results" / "training_cpu.json").read_text())
    rates, seconds = result["examples_per_s_of_all"], result["seconds_by_round"]
    assert f"| `tiger_jax` | {rates['tiger_jax']:.0f} | |" in page
    for name, label in (("t5x", "T5X"), ("hf", "Hugging Face T5")):
        pairs = zip(seconds[name][1:], seconds["tiger_jax"][1:], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        row = f"{result[f'ratio_vs_{name}']:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        assert f"| {label} | {rates[name]:.0f} | {row} |" in page


def test_tables_of_the_search_are_those_of_the_recorded_benchmark():
    page = (ROOT / "docs" / "decoding.md").read_text()
    result = json.loads((ROOT / "results" / "decoding_cpu.json").read_text())
    for shape, entry in result["by_shape"].items():
        users, beams = shape.split("x")
        cells = (
            entry["ratio_vs_t5x"],
            entry["cpu_ratios"]["t5x"],
            entry["ratio_vs_t5x_with_eos"],
            entry["ratio_vs_hf"],
            entry["cpu_ratios"]["hf"],
        )
        row = " | ".join(f"{cell:.1f}" for cell in cells)
        assert f"| {users} users x {beams} beams | {row} |" in page
    for size, entry in result["by_size"].items():
        static = entry["static"]
        row = (
            f"| {int(size):,} items | {entry['cpu_ratios']['unconstrained']:.3f} |"
            f" {entry['index_bytes_per_item']:.2f} | {static['index_bytes_per_item']:.1f} |"
            f" {entry['build_cpu_s']:.3f} | {static['build_cpu_s']:.2f} |"
        )
        assert row in page
