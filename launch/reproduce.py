"""A table or figure of the paper as one command, ours beside the paper's.

    python -m launch.reproduce table1 --dataset=beauty --budget=cpu --seeds=3
    python -m launch.reproduce --list

Runs what is missing, goes on where it was cut off, writes OUT/NAME_DATASET_BUDGET.json and makes
the page of results again from such files: docs/results.md where OUT is results/, else
OUT/results.md. What OUT holds already is not measured again, not even single rows of a table, on
whatever machine they were measured: remove the file to have it anew.
"""

import argparse
import datetime
import json
import pathlib
import sys
import time

import jax

from launch import results_page
from launch.experiments import EXPERIMENTS, named
from launch.experiments.budgets import BUDGETS, Budget
from launch.experiments.experiment import Experiment
from launch.experiments.setting import DATASETS, Setting
from tiger_jax import artifacts, command_line, mesh
from tiger_jax.artifacts import InputError
from tiger_jax.data.sequences import SEQUENCES

TOY_OUT = "work/reproduce_toy/results"
_MADE_BY = "python -m launch.reproduce"
# By which a record says whether anything was found.
_FOUND = ("seeds", "complete", "values", "tables", "trained")
_NEEDS = ("name", "dataset", "budget", "seeds", "values", "data", "tables", "complete")


def reproduce(
    experiment: Experiment,
    datasets: tuple[str, ...],
    budget: Budget,
    num_seeds: int | None,
    out: pathlib.Path,
    keep: bool = False,
) -> None:
    """Measures one experiment wherever it has not been measured, and writes it down.

    Args:
      experiment: the table or figure.
      datasets: of which to measure it, of those that the paper has it for; empty for all.
      budget: how large.
      num_seeds: seeds 0, 1, ... of each model; None for as many as the experiment wants.
      out: folder of the results.
      keep: whether results of another table, of other data or IDs stay as they are.

    Raises:
      InputError: a result is of another table, of other data or IDs.
    """
    for dataset in datasets or experiment.datasets:
        wanted = min(num_seeds or experiment.seeds, experiment.most_seeds or sys.maxsize)
        path = out / f"{experiment.name}_{dataset}_{budget.name}.json"
        setting = Setting(dataset, budget, range(wanted))
        if path.is_file():
            found = artifacts.load_json(path, _MADE_BY, _NEEDS)
            if _is_kept(path, found, setting, keep):
                print(f"{path}: is there already; remove it to measure anew")
                continue
            # What was begun with more seeds goes on with all of them.
            seeds = range(max(wanted, len(found["seeds"])))
            recorded = (found["values"], found["tables"], found.get("trained"))
            setting = Setting(dataset, budget, seeds, *recorded)
        _measure(experiment, setting, path)


def _experiment(name: str, datasets: tuple[str, ...]) -> Experiment:
    """The experiment of that name, if it is for those datasets."""
    experiment = named(name)
    if experiment is None:
        names = ", ".join(known.name for known in EXPERIMENTS)
        raise InputError(f"{name}: no table or figure of that name; choose from {names}")
    for dataset in datasets:
        if dataset not in experiment.datasets:
            raise InputError(
                f"{name}: is for {', '.join(experiment.datasets)}, not for {dataset}; choose one"
            )
    return experiment


def _is_kept(path: pathlib.Path, found: dict, setting: Setting, keep: bool) -> bool:
    """Whether a recorded result stays as it is, being whole, or foreign and wanted so.

    Raises:
      InputError: it is of another table, of other data or IDs.
    """
    is_done = _is_done(found, setting)
    if not is_done:
        # What it goes on with must be the same data, which therefore have to be there.
        setting.facts()
    foreign = _foreign(path, found, setting)
    if foreign and not keep:
        raise InputError(
            f"{path}: made {foreign}; remove it to measure anew, name another folder with "
            "--out, or leave it as it is with --keep"
        )
    return bool(foreign) or is_done


def _is_done(found: dict, setting: Setting) -> bool:
    return found["complete"] and len(found["seeds"]) >= len(setting.seeds)


def _foreign(path: pathlib.Path, found: dict, setting: Setting) -> str:
    """What a recorded result is of, unless it is of this place and these data: empty then."""
    if results_page.file_name(**found) != path.name:
        return f"as {results_page.file_name(**found)}"
    folder = setting.planned_folder
    if (folder / SEQUENCES).is_file():
        now = setting.facts()["data"]
        if found["data"] != now:
            return f"from data {found['data']}, but {folder} has {now}"
        for ids, checksum in found["tables"].items():
            table = folder / "ids" / ids / "semantic_ids.npz"
            if table.is_file() and setting.table(ids).checksum() != checksum:
                return f"from IDs {checksum}, but {table} has {setting.table(ids).checksum()}"
    return ""


def _measure(experiment: Experiment, setting: Setting, path: pathlib.Path) -> None:
    """Writes down what the experiment finds, after each of its parts where it has several."""
    started = time.monotonic()
    found = experiment.run(setting)
    if isinstance(found, dict):
        _save(experiment, setting, path, found, True, started)
    else:
        values = {}
        for values in found:
            _save(
                experiment, setting, path, _with_recorded(values, setting.recorded), False, started
            )
        _save(experiment, setting, path, values, not values.get("missing"), started)
    print(f"wrote {path}")


def _with_recorded(values: dict, recorded: dict) -> dict:
    """What was found, and the rows of an earlier run that this one has not come to."""
    rows = dict(values["rows"])
    for label, row in recorded.get("rows", {}).items():
        rows.setdefault(label, row)
    return {**values, "rows": rows}


def _save(
    experiment: Experiment,
    setting: Setting,
    path: pathlib.Path,
    values: dict,
    complete: bool,
    started: float,
) -> None:
    """Writes a record, unless it would say nothing new: its commit and date are of what it says."""
    command = f"python -m launch.reproduce {experiment.name} --dataset={setting.dataset}"
    command += f" --budget={setting.budget.name} --seeds={len(setting.seeds)}"
    result = {
        "name": experiment.name,
        "dataset": setting.dataset,
        "budget": setting.budget.name,
        "card": setting.card,
        "seeds": list(setting.seeds),
        "complete": complete,
        "values": values,
        **setting.facts(),
        "tables": setting.tables,
        "trained": setting.trained,
        "hardware": mesh.hardware(),
        "command": command,
        # Of this command, which may have gone on with what others had found.
        "seconds": round(time.monotonic() - started),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **artifacts.provenance(),
    }
    before = artifacts.load_json(path, _MADE_BY) if path.is_file() else {}
    now = json.loads(json.dumps({name: result[name] for name in _FOUND}))
    if any(before.get(name) != value for name, value in now.items()):
        artifacts.save_json(path, result)


def _out(given: str | None, budget: Budget) -> pathlib.Path:
    """The folder of the results; what is a toy never stands among those of real data."""
    out = pathlib.Path(given or (TOY_OUT if budget.is_toy else results_page.RESULTS))
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    if budget.is_toy and out.resolve() == results_page.RESULTS:
        raise InputError(f"{out}: holds results of real data; give --budget=toy another --out")
    others = [name for name, other in BUDGETS.items() if other.is_toy != budget.is_toy]
    foreign = [path for name in others for path in out.glob(f"*_{name}.json")]
    if foreign:
        raise InputError(f"{foreign[0]}: toys and real data do not go together; give another --out")
    if out.resolve() == results_page.PAGE.parent:
        raise InputError(f"{out}: holds the page of the results in results/; give another --out")
    return out


def _keep_compiled_programs(budget: str) -> None:
    """What one experiment compiles serves the next; in a toy nothing else takes time."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = pathlib.Path("work/jax_cache").resolve()
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if budget == "toy":
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def main(argv=None) -> None:
    """Command line."""
    parser = command_line.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of tables and figures, see --list"
    )
    parser.add_argument("--list", action="store_true", help="the names and what each costs")
    parser.add_argument(
        "--dataset", default="", help=f"of {', '.join(DATASETS)}, with commas; all by default"
    )
    parser.add_argument("--budget", default="cpu", help=f"{', '.join(BUDGETS)}; cpu by default")
    parser.add_argument("--seeds", type=int, help="of each model; most experiments want 1")
    parser.add_argument("--out", help=f"folder of results; results/ by default, {TOY_OUT} for toys")
    parser.add_argument(
        "--keep", action="store_true", help="leave results of another table, of other data or IDs"
    )
    try:
        options = parser.parse_args(argv)
        if options.list:
            print("\n".join(f"{known.name:<11} {known.cost}" for known in EXPERIMENTS))
            return
        artifacts.provenance()  # Of the code as it is now.
        _keep_compiled_programs(options.budget)
        if not options.names:
            raise InputError("no NAME given; --list shows them")
        if options.budget not in BUDGETS:
            raise InputError(f"--budget={options.budget}: choose one of {', '.join(BUDGETS)}")
        if options.seeds is not None and options.seeds < 1:
            raise InputError(f"--seeds={options.seeds}: at least 1")
        datasets = tuple(filter(None, options.dataset.split(",")))
        experiments = [_experiment(name, datasets) for name in options.names]
        budget = BUDGETS[options.budget]
        out = _out(options.out, budget)
        # A damaged result among those of the page is found before hours of measuring.
        results_page.text(out, out)
        for experiment in experiments:
            try:
                reproduce(experiment, datasets, budget, options.seeds, out, options.keep)
            finally:
                # Of what was found before it was cut off as well.
                results_page.write(out)
    except InputError as error:
        command_line.fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        sys.exit(130)
    print(f"see {results_page.page_of(out)}")


if __name__ == "__main__":
    main()
