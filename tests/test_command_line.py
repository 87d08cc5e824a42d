"""Flags, gin and errors of a verb, as a user meets them."""

import json
import os
import subprocess
import sys

import pytest

from tiger_jax import command_line
from tiger_jax.artifacts import InputError


def demo(
    folder: str, count: int = 3, rate: float | None = None, quick: bool = False, unseen: list = ()
) -> dict:
    """Does nothing much.

    Args:
      folder: where
        to look.
      count: how many.

    Returns:
      What it was given.
    """
    if count < 0:
        raise InputError(f"count is {count}; give a positive one")
    return {"folder": folder, "count": count, "rate": rate, "quick": quick}


def outcome(capsys, *arguments):
    """(exit code, last line of output, error output)."""
    code = 0
    try:
        command_line.run(demo, ["demo", *arguments], "demo --folder=x")
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    return code, (captured.out.splitlines() or [""])[-1], captured.err


def test_flags_become_arguments(capsys):
    code, line, _ = outcome(capsys, "--folder=a", "--count=4", "--rate=0.5", "--quick", "--json")
    assert code == 0
    assert json.loads(line) == {"folder": "a", "count": 4, "rate": 0.5, "quick": True}


def test_without_json_nothing_is_printed(capsys):
    assert outcome(capsys, "--folder=a") == (0, "", "")


def test_flag_wins_over_gin_and_gin_over_default(capsys, tmp_path):
    card = tmp_path / "card.gin"
    card.write_text(
        "from __gin__ import dynamic_registration\nimport test_command_line\nCOUNT = 5\n"
        "test_command_line.demo.count = %COUNT\ntest_command_line.demo.folder = 'g'\n"
    )
    _, line, error = outcome(capsys, f"--gin_file={card}", "--json")
    assert (json.loads(line)["count"], json.loads(line)["folder"]) == (5, "g"), error
    _, line, _ = outcome(capsys, f"--gin_file={card}", "--gin.COUNT=6", "--json")
    assert json.loads(line)["count"] == 6
    _, line, _ = outcome(capsys, f"--gin_file={card}", "--gin.COUNT=6", "--count=7", "--json")
    assert json.loads(line)["count"] == 7


def bound(capsys, **values):
    bindings = [f"--gin.test_command_line.demo.{name}={value}" for name, value in values.items()]
    return outcome(capsys, "--folder=a", *bindings, "--json")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("count", "1e1", 10), ("rate", "2", 2), ("rate", "None", None), ("quick", "True", True)],
)
def test_a_value_of_gin_is_what_the_flag_would_be(capsys, name, value, expected):
    code, line, error = bound(capsys, **{name: value})
    assert code == 0, error
    assert json.loads(line)[name] == expected
    assert type(json.loads(line)[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", "1.5", "count = 1.5 is no int"),
        ("count", "'3'", "count = '3' is no int"),
        ("count", "True", "count = True is no int"),
        ("count", "None", "count = None is no int"),
        ("rate", "'x'", "rate = 'x' is no float"),
        ("quick", "1", "quick = 1 is no bool"),
    ],
)
def test_a_value_of_gin_of_another_kind_is_one_line(capsys, name, value, message):
    code, _, error = bound(capsys, **{name: value})
    assert code == 2
    assert error == f"error: gin: {message}; mend it\n"


def test_a_flag_stands_in_for_a_macro_that_no_file_sets(capsys, tmp_path):
    card = tmp_path / "card.gin"
    card.write_text(
        "from __gin__ import dynamic_registration\nimport test_command_line\n"
        "test_command_line.demo.folder = %FOLDER\n"
    )
    code, line, _ = outcome(capsys, f"--gin_file={card}", "--folder=f", "--json")
    assert (code, json.loads(line)["folder"]) == (0, "f")
    code, _, error = outcome(capsys, f"--gin_file={card}")
    assert code == 2
    assert error.startswith("error: gin: ")
    assert "FOLDER" in error
    assert error.count("\n") == 1


def test_what_a_file_imports_can_be_bound_on_the_command_line(capsys, tmp_path):
    card = tmp_path / "card.gin"
    card.write_text(
        "from __gin__ import dynamic_registration\nimport test_command_line\n"
        "from tiger_jax import train_state\n"
        "test_command_line.demo.folder = 'f'\n"
        "test_command_line.demo.unseen = [@train_state.rsqrt_schedule()]\n"
        "train_state.rsqrt_schedule.learning_rate = 1.0\n"
    )
    code, _, error = outcome(capsys, f"--gin_file={card}")
    assert code == 2
    assert "constant_steps" in error
    binding = "--gin.train_state.rsqrt_schedule.constant_steps=5"
    assert outcome(capsys, f"--gin_file={card}", binding)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "missing: --folder"),
        (("--foldr=a",), "Did you mean: folder"),
        (("--folder=a", "--count=many"), "--count=many"),
        (("--folder=a", "--count=-1"), "count is -1; give a positive one"),
        (("--folder=a", "b"), "unexpected argument 'b'"),
        (("--gin_file=no.gin",), "no.gin: no such gin file"),
        (("--folder=a", "--gin.MISSPELT=1"), "no gin file sets a macro 'MISSPELT'"),
        (("--folder=a", "--gin.test_command_line.demo.cuont=1"), "cuont"),
        (("--folder=a", "--gin.COUNT"), "gin: "),
        (("--folder=a", "--gin.test_command_line.demo.count=many"), "count=many: no value; a text"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(capsys, arguments, message):
    code, _, error = outcome(capsys, *arguments)
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_gin_file_that_is_for_another_verb_is_told_apart(capsys, tmp_path):
    def nobodys_verb(folder: str) -> dict:
        """Does nothing.

        Args:
          folder: where to look.
        """
        return {"folder": folder}

    card = tmp_path / "card.gin"
    card.write_text("from __gin__ import dynamic_registration\n")
    with pytest.raises(SystemExit) as stop:
        command_line.run(nobodys_verb, ["nobodys_verb", "--folder=f", f"--gin_file={card}"])
    message = f"{card}: sets nothing of test_command_line; give a file that imports it, or flags"
    assert (stop.value.code, capsys.readouterr().err) == (2, f"error: {message}\n")


def test_help_shows_arguments_defaults_and_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.run(demo, ["demo", "--help"], "demo --folder=x")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for line in ("Does nothing much.", "--folder  where to look.", "--count  how many. [3]"):
        assert line in text
    assert "demo --folder=x" in text
    assert "Returns" not in text
    assert "unseen" not in text


def test_ids_that_are_no_unicode_can_be_printed():
    """As in a terminal of ASCII."""
    code = "from tiger_jax import command_line\n"
    code += "def verb() -> dict:\n    'V.'\n    print('caf\\udce9', 'caf\\xe9')\n    return {}\n"
    code += "command_line.run(verb, ['verb'])"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "caf\\udce9 caf\\xe9\n"
