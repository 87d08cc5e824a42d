"""Health of Semantic IDs: every scheme on every dataset with several seeds.

    python -m launch.id_health --folders=work/beauty,work/sports,work/toys

Writes results/id_health.json, a row a run, and the section of docs/results.md between its two
markers. Rows that the file holds already are not made again: the command can be stopped, given
again, and given for one scheme after another.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable

from tiger_jax import artifacts
from tiger_jax.data.sequences import SEQUENCES, Sequences

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "id_health.json"
PAGE = ROOT / "docs" / "results.md"
START, END = "<!-- id_health: start -->", "<!-- id_health: end -->"

_INTRODUCTION = """## Health of Semantic IDs

`{command}` wrote
[results/id_health.json](../results/id_health.json) and this table; the cards are those of
`gin/ids/`. Mean and standard deviation over seeds; a card without a number of epochs ran with its
own. A bucket is the items with equal codes; collisions are items whose codes an earlier item
already has. Embeddings by all-MiniLM-L6-v2 of title, brand and categories; the Sports files have
no titles, so that many of their items have equal embeddings.
"""

CARDS = ("rqvae", "rqvae_adamw", "vqvae", "residual", "hierarchical", "lsh", "random")
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
    run = {"dataset": dataset, "card": card, "seed": seed, "epochs": epochs}
    if done.returncode:
        return {**run, "error": done.stderr.splitlines()[-1], **artifacts.provenance()}
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        **run,
        **{name: result[name] for name in MEASURES},
        "items": Sequences.load(pathlib.Path(folder, SEQUENCES)).num_items,
        "has_collision_token": result["has_collision_token"],
        # A local model is named by the end of its path.
        "encoder": "/".join(pathlib.Path(result["encoder"]).parts[-2:]),
        **artifacts.provenance(),
    }


def section(rows: Iterable[dict]) -> str:
    """The table as Markdown: a line a dataset and scheme, over its seeds."""
    lines = [
        "| dataset | IDs | seeds | codes in use, fewest of all seeds | different tuples "
        "| collisions | largest bucket | explained variance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, int], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["card"], row["epochs"] or 0), []).append(row)
    for (dataset, card, epochs), group in sorted(
        groups.items(), key=lambda item: (item[0][0], CARDS.index(item[0][1]), item[0][2])
    ):
        card = f"{card}, {epochs} epochs" if epochs else card
        failed = [row["error"] for row in group if "error" in row]
        if failed:
            lines.append(f"| {dataset} | {card} | {len(group)} | {failed[0]} | - | - | - | - |")
            continue
        usage = [
            min(levels) for levels in zip(*(row["codebook_usage"] for row in group), strict=True)
        ]
        explained = [row["explained_variance"] for row in group]
        lines.append(
            f"| {dataset} | {card} | {len(group)} | {' '.join(f'{share:.0%}' for share in usage)} "
            f"| {_spread([row['unique'] for row in group])} of {group[0]['items']:,} "
            f"| {_spread([row['collisions'] for row in group])} "
            f"| {max(row['largest_bucket'] for row in group)} "
            f"| {'-' if None in explained else _spread(explained, '.3f')} |"
        )
    return "\n".join(lines)


def write_page(rows: list[dict], command: str) -> None:
    """Puts the section between its markers, at the end of a page that has none yet."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else "# Results\n"
    body = f"{START}\n{_INTRODUCTION.format(command=command)}\n{section(rows)}\n{END}"
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if pattern.search(text):
        text = pattern.sub(lambda _: body, text)
    else:
        text = f"{text.rstrip()}\n\n{body}\n"
    with artifacts.atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _spread(values: list[float], form: str = ",.0f") -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def main(argv=None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folders", required=True, help="prepared folders, separated by commas")
    parser.add_argument("--cards", default=",".join(CARDS), help="names of files in gin/ids")
    parser.add_argument("--epochs", type=int, help="of the cards that train, if not their own")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... of each")
    options = parser.parse_args(argv)
    command = "python -m launch.id_health --folders=work/beauty,work/sports,work/toys"
    command += f" --epochs={options.epochs}" if options.epochs else ""
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    for seed in range(options.seeds):
        for card in options.cards.split(","):
            for folder in options.folders.split(","):
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
                write_page(rows, command)
    write_page(rows, command)


if __name__ == "__main__":
    main()
