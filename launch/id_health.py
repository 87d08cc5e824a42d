"""Health of Semantic IDs: every scheme on every dataset with several seeds.

    python -m launch.id_health --folders=work/beauty,work/sports,work/toys

Writes results/id_health.json, a row a run, and docs/results.md, which has them as its last section.
Rows that the file holds already are not made again: the command can be stopped, given again, and
given for one scheme after another.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys

from launch import results_page
from launch.experiments.health import CARDS
from tiger_jax import artifacts
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "id_health.json"

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
    if done.returncode:
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


def _cards(text: str) -> list[str]:
    cards = text.split(",")
    for card in cards:
        if card not in CARDS:
            raise argparse.ArgumentTypeError(f"no card {card!r}; choose of {', '.join(CARDS)}")
    return cards


def _folders(text: str) -> list[str]:
    folders = text.split(",")
    for folder in folders:
        if not pathlib.Path(folder, SEQUENCES).is_file():
            raise argparse.ArgumentTypeError(
                f"{folder}: no {SEQUENCES}; make it with python -m tiger_jax.prepare"
            )
    return folders


def main(argv=None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--folders", type=_folders, required=True, help="prepared folders, separated by commas"
    )
    parser.add_argument(
        "--cards", type=_cards, default=CARDS, help=f"of {', '.join(CARDS)}, separated by commas"
    )
    parser.add_argument("--epochs", type=int, help="of the cards that train, if not their own")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of each")
    options = parser.parse_args(argv)
    command = f"python -m launch.id_health --folders={','.join(options.folders)}"
    command += f" --cards={','.join(options.cards)} --seeds={options.seeds}"
    command += f" --epochs={options.epochs}" if options.epochs else ""
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for seed in range(options.seeds):
        for card in options.cards:
            for folder in options.folders:
                dataset = Sequences.load(pathlib.Path(folder, SEQUENCES)).header["dataset"]
                epochs = options.epochs if "vqvae" in card or "rqvae" in card else None
                made = ([row[name] for name in IDENTITY] for row in rows)
                if [dataset, card, seed, epochs] in made:
                    continue
                rows.append(measure(folder, card, seed, epochs))
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                artifacts.save_json(
                    RESULTS,
                    {"command": command, "date": today, "rows": rows},
                )
                results_page.write()


if __name__ == "__main__":
    main()
