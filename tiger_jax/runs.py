"""A line for each training run below a folder: what it was, how far it came, what it is worth.

It reads what the verbs left and changes nothing; runs that are under way or broken off are shown.
"""

import pathlib
from typing import Any

from tiger_jax import artifacts, command_line, run_log
from tiger_jax.artifacts import InputError

_EXAMPLES = """
python -m tiger_jax.runs
python -m tiger_jax.runs --folder=work/beauty --json
"""

_SCORES = ("recall@10", "ndcg@10")
_COLUMNS = ("folder", "dataset", "ids", "steps", "validation", "test", "commit")


def runs(folder: str = "work") -> dict[str, Any]:
    """Lists all runs below a folder, with recall@10 and ndcg@10 of validation and of test.

    Validation: the run's sample of users at its best step, which is what chooses the checkpoint;
    history kept, SASRec's removed. Test: eval/test/eval.json, where the run was evaluated.

    Args:
      folder: prepared folder, or a folder with prepared folders in it.

    Returns:
      {"runs": a row a run}; what is not known, or not there yet, is None.

    Raises:
      InputError: there is no such folder.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: no such folder; say with --folder where the runs are")
    rows = [_row(path.parent) for path in sorted(root.glob("**/runs/*/run.json"))]
    if rows:
        print(table_of(rows))
    else:
        print(f"{folder}: no runs yet; python -m tiger_jax.train makes them")
    return {"runs": rows}


def table_of(rows: list[dict[str, Any]]) -> str:
    """Rows of `runs` as aligned text."""
    lines = [_COLUMNS]
    for row in rows:
        scores = {
            name: " ".join(f"{row[name][score]:.4f}" for score in _SCORES) if row[name] else "-"
            for name in ("validation", "test")
        }
        cells = {name: "-" if row[name] is None else str(row[name]) for name in _COLUMNS}
        cells["steps"] = f"{row['steps']:,}"
        lines.append(tuple((cells | scores).values()))
    return command_line.aligned(lines)


def _row(run_folder: pathlib.Path) -> dict[str, Any]:
    """What is known of one run."""
    prepared = run_folder.parent.parent
    settings = _read(run_folder / "run.json")
    log = run_log.read(run_folder / run_log.METRICS)
    scored = [row for row in log if _scores(row)]
    best = max(scored, key=lambda row: row["ndcg@10"], default={})
    evaluation = _read(run_folder / "eval" / "test" / "eval.json")
    values = {name: (evaluation.get(name) or {}).get("value") for name in _SCORES}
    provenance = settings.get("provenance") or {}
    return {
        "run": run_folder.name,
        "folder": str(run_folder),
        "dataset": _read(prepared / "content_embeddings.json").get("dataset") or prepared.name,
        "ids": settings.get("ids"),
        "steps": log[-1]["step"] if log else 0,
        "validation": _scores(best) and {"step": best["step"], **_scores(best)},
        "test": _scores(values) and {"step": evaluation.get("step"), **_scores(values)},
        "commit": provenance.get("commit"),
    }


def _scores(row: dict[str, Any]) -> dict[str, float] | None:
    """The two scores; None where one is missing."""
    scores = {name: row.get(name) for name in _SCORES}
    return scores if all(isinstance(score, float) for score in scores.values()) else None


def _read(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file is missing or damaged."""
    try:
        value = artifacts.load_json(path, "")
    except InputError:
        return {}
    return value if isinstance(value, dict) else {}


def main(argv=None):
    """The command line."""
    command_line.run(runs, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.runs import main

    main()
