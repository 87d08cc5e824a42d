"""Every table and figure of the paper at toy size; the page of results; what is refused."""

import pytest

from launch import reproduce, results_page
from launch.experiments import EXPERIMENTS

NAMES = [
    *(f"table{number}" for number in range(1, 11)),
    *("id_shapes", "figure4", "figure5", "figure6", "memory", "infrequent", "beyond"),
]


def test_list_has_exactly_the_names_each_with_its_cost(capsys):
    reproduce.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 1 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table11"], ", ".join(NAMES)),
        ([], "no NAME given"),
        (["table6", "--budget=large"], "--budget=large: choose one of paper, cpu, toy"),
        (["table6", "--seeds=0"], "--seeds=0: at least 1"),
        (["table6", "--dataset=books"], "not for books"),
        (["table6", "--budget=toy", f"--out={results_page.RESULTS}"], "another --out"),
    ],
)
def test_a_fault_of_the_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        reproduce.main(arguments)
    assert end.value.code == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ")
    assert captured.count("\n") == 1
    assert message in captured


def test_page_of_results_is_what_the_recorded_files_make_of_it():
    text = results_page.text(results_page.RESULTS, results_page.PAGE.parent)
    assert text == results_page.PAGE.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")][:-1] == [
        f"## {experiment.title}" for experiment in EXPERIMENTS
    ]
