"""Ranked lists of RecBole's models on a prepared folder, for our own scorer.

    python -m benchmarks.baselines.ranked_lists --folder=work/beauty_minilm \\
      --python=$(bash benchmarks/baselines/environment.sh)

Same users, items, order and leave-one-out split as TIGER's. Each model leaves
FOLDER/runs/recbole-MODEL-SEED/ranked_items.npz, which `launch.reproduce table1` scores; models that
have one are not trained again.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.metrics import RankedItems

MODELS = ("GRU4Rec", "Caser", "HGN", "SASRec", "BERT4Rec", "FDSA", "S3Rec")
_PRETRAINED = "S3Rec"
MADE_BY = "python -m benchmarks.baselines.ranked_lists"
_KIND = "ranked_items"
# The large arrays of every step from pages that the process has already: glibc would return and
# fetch them, zeroed, each time. Changes no number.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
_DATASET = "prepared"


def write_atomic_files(folder: pathlib.Path, out: pathlib.Path) -> None:
    """A prepared folder as RecBole's atomic files, out/prepared/prepared.inter and .item.

    Users are their rows, items their numbers. A place in a sequence is its timestamp, so that
    RecBole's order is ours, ties included.
    """
    sequences = Sequences.load(folder / SEQUENCES)
    target = out / _DATASET
    target.mkdir(parents=True)
    with open(target / f"{_DATASET}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for row in range(sequences.num_users):
            for place, item in enumerate(sequences.sequence(row)):
                file.write(f"{row}\t{item}\t{place}\n")
    with open(target / f"{_DATASET}.item", "w", encoding="utf-8") as file:
        file.write("item_id:token\tclass:token_seq\n")
        for number, item in enumerate(content.load_items(folder), start=1):
            file.write(f"{number}\t{' '.join(attributes(item))}\n")


def attributes(item: dict) -> list[str]:
    """Categories and brand of an item, each one word; what FDSA and S3-Rec read."""
    names = [name for path in item.get("categories") or [] for name in path]
    if item.get("brand"):
        names.append(f"brand {item['brand']}")
    words = dict.fromkeys("_".join(name.split()) for name in names)
    return list(words) or ["none"]


def make_lists(folder: str, model: str, seed: int, python: str, **options: int) -> pathlib.Path:
    """Trains a model in RecBole's environment and keeps its ranked lists; returns their file.

    Args:
      folder: the prepared folder.
      model: one of MODELS.
      seed: of RecBole.
      python: interpreter of RecBole's environment.
      **options: epochs, pretrain_epochs, batch_size, max_history, num_results and threads, as of
        run_recbole.py.
    """
    path = lists_path(folder, model, seed)
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    if path.is_file():
        header, _ = load_lists(path, sequences)
        if options_that_matter(model, header["options"]) != options_that_matter(model, options):
            raise InputError(
                f"{path}: trained with {header['options']}; remove it to train with {options}"
            )
        return path
    script = pathlib.Path(__file__).with_name("run_recbole.py")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        temporary = pathlib.Path(name)
        write_atomic_files(pathlib.Path(folder), temporary)
        # Where it is said from here; it works elsewhere.
        interpreter = os.path.abspath(python) if os.path.exists(python) else python
        command = [interpreter, str(script), f"--model={model}", f"--atomic={temporary / _DATASET}"]
        command += [f"--out={temporary / 'lists.npz'}", f"--seed={seed}"]
        command += [f"--{option}={value}" for option, value in options.items()]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= _ALLOCATOR
        # RecBole writes logs to the working folder.
        done = subprocess.run(command, cwd=temporary, env=environment, check=False)
        if done.returncode:
            raise InputError(
                f"{python}: {model} ended with exit code {done.returncode}; see above; make its "
                "environment with bash benchmarks/baselines/environment.sh"
            )
        with np.load(temporary / "lists.npz") as file:
            lists = dict(file)
    facts = json.loads(lists.pop("facts").tobytes())
    require_all_users(lists["user_rows"], sequences.num_users, model)
    header = {
        "model": model,
        "seed": seed,
        "sequences": sequences.checksum(),
        "dataset": sequences.header["dataset"],
        "options": options,
        "seconds": round(time.monotonic() - started, 1),
        **facts,
        **artifacts.provenance(),
    }
    artifacts.save_arrays(path, _KIND, header, **lists)
    return path


def require_all_users(user_rows: np.ndarray, num_users: int, model: str) -> None:
    """InputError unless there is one list for each user."""
    if not np.array_equal(user_rows, np.arange(num_users)):
        raise InputError(f"{model}: lists for other users than the prepared folder's")


def options_that_matter(model: str, options: dict[str, int]) -> dict[str, int]:
    """Without what only others read, and the number of threads, which changes but rounding."""
    unread = {"threads"} if model == _PRETRAINED else {"threads", "pretrain_epochs"}
    return {name: value for name, value in options.items() if name not in unread}


def lists_path(folder: str | os.PathLike, model: str, seed: int) -> pathlib.Path:
    """Where the ranked lists of a model lie."""
    return pathlib.Path(folder, "runs", f"recbole-{model}-{seed}", "ranked_items.npz")


def load_lists(path: pathlib.Path, sequences: Sequences) -> tuple[dict, RankedItems]:
    """Header and lists, history items included, one list a user.

    Raises:
      InputError: the file is missing, damaged, or of other sequences.
    """
    header, arrays = artifacts.load_arrays(path, _KIND, MADE_BY)
    if header.get("sequences") != sequences.checksum():
        raise InputError(f"{path}: made from other sequences; remove it and run {MADE_BY} again")
    with artifacts.refusing_damage(path, _KIND, MADE_BY):
        require_all_users(arrays["user_rows"], sequences.num_users, header["model"])
        ranked = RankedItems(arrays["item_numbers"].astype(np.int32), arrays["scores"])
        if ranked.item_numbers.shape != ranked.scores.shape or len(ranked) != sequences.num_users:
            raise ValueError("lists of unlike shapes")
    return header, ranked


def main(argv=None) -> None:
    """Command line."""
    parser = command_line.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", required=True, help="prepared folder")
    parser.add_argument("--python", required=True, help="interpreter of RecBole's environment")
    parser.add_argument("--models", default=",".join(MODELS), help="with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100, help="at most; stops early")
    parser.add_argument("--pretrain_epochs", type=int, default=100, help=f"of {_PRETRAINED}")
    parser.add_argument("--batch_size", type=int, default=2048)
    parser.add_argument("--max_history", type=int, default=50)
    parser.add_argument("--num_results", type=int, default=50, help="history items included")
    parser.add_argument("--threads", type=int, default=2)
    try:
        options = vars(parser.parse_args(argv))
        folder, seed, python = options.pop("folder"), options.pop("seed"), options.pop("python")
        for model in options.pop("models").split(","):
            if model not in MODELS:
                raise InputError(f"--models={model}: choose from {', '.join(MODELS)}")
            print(f"wrote {make_lists(folder, model, seed, python, **options)}")
    except InputError as error:
        command_line.fail(str(error))


if __name__ == "__main__":
    main()
