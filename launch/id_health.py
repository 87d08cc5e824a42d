"""Health of Semantic IDs: every scheme on every dataset with several seeds.

    python -m launch.id_health --folders=work/beauty,work/sports,work/toys

Writes results/id_health.json, a row a run, and docs/results.md, which has them as its last section.
Rows that the file holds already are not made again: the command can be stopped, given again, and
given for one scheme after another.
"""

import datetime
import itertools
import json
import os
import pathlib
import subprocess
import sys

from launch import results_page
from launch.experiments.health import CARDS
from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "id_health.json"

_EXAMPLES = """
python -m launch.id_health --folders=work/beauty_minilm,work/toys_minilm
python -m launch.id_health --folders=work/beauty_minilm --cards=lsh,random --seeds=1
"""

# What tells a run from the others.
IDENTITY = ("dataset", "card", "seed", "epochs")
MEASURES = (
    "codebook_usage",
    "codes_used",
    "unique",
    "collisions",
    "largest_bucket",
    "explained_variance",
    "seconds",
)


def measure(folder: str, card: str, seed: int, epochs: int | None = None) -> dict:
    """Makes the IDs of one prepared folder and returns their health.

    Args:
      folder: the prepared folder.
      card: name of a file in gin/ids.
      seed: of the scheme.
      epochs: passes over the items where the scheme trains; None: as the card has it.
    """
    dataset = Sequences.load(pathlib.Path(folder, SEQUENCES)).header["dataset"]
    # A collapsed codebook is a result here, and so are hundreds of items with equal codes.
    arguments = [f"--scheme={card}", f"--folder={folder}", f"--seed={seed}", "--json"]
    arguments += [f"--ids=health_{card}_{seed}", "--min_codebook_usage=0", "--collision_size=4096"]
    if epochs is not None:
        arguments.append(f"--gin.NUM_EPOCHS={epochs}")
    done = subprocess.run(
        [sys.executable, "-m", "tiger_jax.make_ids", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 2:
        raise InputError(f"{folder}, {card}: {done.stderr.splitlines()[-1]}")
    if done.returncode:
        # A signal, or a fault of the program.
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "dataset": dataset,
        "card": card,
        "seed": seed,
        "epochs": epochs,
        **{name: result[name] for name in MEASURES},
        "items": Sequences.load(pathlib.Path(folder, SEQUENCES)).num_items,
        "has_collision_token": result["has_collision_token"],
        "encoder": content.encoder_name(result["encoder"]),
        **artifacts.provenance(),
    }


def id_health(
    folders: str, cards: str = ",".join(CARDS), epochs: int | None = None, seeds: int = 3
) -> dict:
    """Makes the IDs that are not recorded yet and records their health.

    Args:
      folders: prepared folders, separated by commas.
      cards: names of files in gin/ids, separated by commas.
      epochs: of the cards that train, if not their own.
      seeds: how many of each: 0, 1, ...
    """
    artifacts.require_at_least(1, seeds=seeds)
    for card in cards.split(","):
        if card not in CARDS:
            raise InputError(f"cards: no card {card!r}; choose of {', '.join(CARDS)}")
    sources = {folder: content.load_embeddings(folder)[1] for folder in folders.split(",")}
    datasets = [header["dataset"] for header in sources.values()]
    if len(set(datasets)) < len(datasets):
        raise InputError(f"folders: two of one dataset among {', '.join(datasets)}; give one each")
    command = f"python -m launch.id_health --folders={folders} --cards={cards} --seeds={seeds}"
    command += f" --epochs={epochs}" if epochs else ""
    rows = []
    if RESULTS.is_file():
        rows = artifacts.load_json(RESULTS, "python -m launch.id_health", ("rows",))["rows"]
    # The table has a line for a dataset and scheme, whatever encoder.
    encoders = {row["encoder"] for row in rows}
    encoders |= {content.encoder_name(header["encoder"]) for header in sources.values()}
    if len(encoders) > 1:
        raise InputError(
            f"{RESULTS}: would have rows of several encoders, {', '.join(sorted(encoders))}; "
            "prepare the folders with one, or move the file away"
        )
    for seed, card, folder in itertools.product(range(seeds), cards.split(","), sources):
        own_epochs = epochs if "vqvae" in card or "rqvae" in card else None
        made = ([row[name] for name in IDENTITY] for row in rows)
        if [sources[folder]["dataset"], card, seed, own_epochs] in made:
            continue
        rows.append(measure(folder, card, seed, own_epochs))
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        artifacts.save_json(RESULTS, {"command": command, "date": today, "rows": rows})
        results_page.write()
    return {"rows": len(rows)}


def main(argv=None) -> None:
    """Command line."""
    command_line.run(id_health, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    main()
