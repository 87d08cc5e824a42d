"""Verb 2: content embeddings of a prepared folder -> a semantic-ID table in ids/<name>.

The ID scheme is a function of `semantic_ids/schemes.py` that a gin file chooses. Here is what all
share: checks before and after, the table's header, the files.
"""

import dataclasses
import inspect
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.cooccurrence import COOCCURRENCE, encode_cooccurrence
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.new_items import add_items
from tiger_jax.report import ids as report
from tiger_jax.semantic_ids import quantizer, schemes
from tiger_jax.semantic_ids.journal import METRICS, Journal
from tiger_jax.semantic_ids.table import Codes, SemanticIdTable, codes_health, codes_used

_EXAMPLES = """
python -m tiger_jax.make_ids --list
python -m tiger_jax.make_ids --gin_file=gin/dataset/beauty.gin --scheme=rqvae
python -m tiger_jax.make_ids --gin_file=gin/dataset/toys.gin --gin_file=gin/ids/rqvae_adamw.gin --seed=1
python -m tiger_jax.make_ids --gin_file=gin/experiment/quickstart.gin --gin.NUM_EPOCHS=50 --json
python -m tiger_jax.make_ids --gin_file=gin/dataset/beauty.gin --scheme=rqvae --joined_with=work/sports,work/toys
python -m tiger_jax.make_ids --folder=work/beauty --ids=rqvae --add=new_items.jsonl
"""  # noqa: E501


def make_ids(
    folder: str,
    ids: str,
    scheme: Callable[..., Codes],
    seed: int = 0,
    min_codebook_usage: float = 0.5,
    collision_size: int = 256,
    joined_with: str = "",
    cooccurrence_width: int = 0,
    configuration: str = "",
) -> dict[str, Any]:
    """Gives every item of a prepared folder a distinct Semantic ID.

    Writes folder/ids/<ids>: semantic_ids.npz; where codes come from content, quantizer.npz, by
    which new items get theirs; metrics.jsonl, the health while training; config.gin; report.html,
    the health to look at, with the categories and the items of each prefix. Training
    that was killed goes on where it was when the same command is given again; until it is over
    its metrics.jsonl is in folder/ids/<ids>.training.

    --list prints the names of the schemes; --scheme=NAME stands for --gin_file=gin/ids/NAME.gin;
    --add=FILE gives IDs to new items instead, and --add= --help says how.

    Args:
      folder: prepared folder with content embeddings.
      ids: name of the IDs to make.
      scheme: the ID scheme, chosen by a file of gin/ids.
      seed: of all that is drawn.
      min_codebook_usage: share of each codebook that must be in use at the end, by the items of all
        folders joined; with less it has collapsed, and nothing is written.
      collision_size: number of values of the collision token, where the scheme has one: most items
        that may have equal codes (TIGER section 4: 256).
      joined_with: further prepared folders, separated by commas, whose items get their codes by
        the same scheme (the three datasets joined: TIGER appendix E, Table 10); the table is still
        that of `folder`, whose items come first.
      cooccurrence_width: not in the paper: so many numbers that tell which items come together in
        training sequences are put beside an item's content embedding before the scheme sees it.
        New items have zeros there.
      configuration: gin text of all that was set, saved beside the IDs.

    Returns:
      Health of the IDs (`codes_health`), explained_variance, seconds, and the table's header.

    Raises:
      InputError: unusable embeddings, a collapsed codebook, too many items with equal codes.
    """
    artifacts.require_names(ids=ids)
    artifacts.require_seed(seed)
    artifacts.require_at_least(1, collision_size=collision_size)
    artifacts.require_shares(min_codebook_usage=min_codebook_usage)
    embeddings_NE, source = content.load_embeddings(folder)
    others = [other.strip() for other in joined_with.split(",") if other.strip()]
    all_NE, joined = _join(embeddings_NE, source, others)
    content.require_usable(all_NE, f"{folder}: content embeddings")
    cooccurrence = {}
    if cooccurrence_width:
        all_NE, cooccurrence = _beside_cooccurrence(
            all_NE, source, folder, cooccurrence_width, seed, joined_with
        )
    header = {
        "scheme": scheme.__name__,
        "ids": ids,
        "seed": seed,
        "dataset": source.get("dataset"),
        "encoder": source["encoder"],
        "text_fields": source["text_fields"],
        "items_checksum": source["items_checksum"],
        "embeddings_checksum": source["checksum"],
        "joined_with": joined,
        **cooccurrence,
        "provenance": artifacts.provenance(),
    }
    target = pathlib.Path(folder) / "ids" / ids
    journal = Journal(target.with_name(f"{ids}.training"), _identity(header, configuration))
    started = time.monotonic()
    try:
        codes = _codes(scheme, all_NE, seed, journal)
        # Of joined folders, codes that this one has no items for are others'.
        _require_no_collapse(codes, min_codebook_usage)
        codes = dataclasses.replace(codes, codes_NL=codes.codes_NL[: len(embeddings_NE)])
        if codes.quantizer is not None:
            header["parameters_checksum"] = codes.quantizer.checksum()
        health = codes_health(codes.codes_NL, codes.codebook_sizes)
        health["explained_variance"] = codes.explained_variance
        table = codes.table(header, collision_size)
    except artifacts.CannotWriteError:
        # What was trained until then serves when there is space again.
        raise
    except InputError:
        # To go on from here would lead here again.
        journal.clear()
        raise
    _write(target, table, codes, health, configuration)
    # Meanwhile another table may have been given more.
    items = content.load_items(folder)[: table.num_items]
    report.write(target / "report.html", table, health, codes.history, items, embeddings_NE)
    journal.clear()
    usage = " ".join(f"{share:.0%}" for share in health["codebook_usage"])
    print(
        f"{target}: {table.num_items:,} items, codes in use by level: {usage}, "
        f"{health['unique']:,} different tuples of codes, {health['collisions']:,} collisions"
        + ("" if codes.has_collision_token else "; no collision token")
    )
    return {**health, "seconds": round(time.monotonic() - started, 1), **table.header}


def _codes(
    scheme: Callable[..., Codes], embeddings_NE: np.ndarray, seed: int, journal: Journal
) -> Codes:
    """Runs a scheme; one that trains for long keeps a journal."""
    if "journal" in inspect.signature(scheme).parameters:
        return scheme(embeddings_NE, seed, journal=journal)
    return scheme(embeddings_NE, seed)


def _identity(header: dict, configuration: str) -> str:
    """What a training depends on; nothing that a later one could go on from where that is not
    known, as it is from the command line only."""
    return artifacts.checksum(json.dumps(header), configuration) if configuration else ""


def _join(
    embeddings_NE: np.ndarray, source: dict, folders: Sequence[str]
) -> tuple[np.ndarray, list[dict]]:
    """All embeddings, the first folder's first, and what the others' are."""
    parts, joined = [embeddings_NE], []
    for folder in folders:
        other_NE, other = content.load_embeddings(folder)
        if other["encoder"] != source["encoder"] or other_NE.shape[1] != embeddings_NE.shape[1]:
            raise InputError(
                f"{folder}: content embeddings by {other['encoder']}, {other_NE.shape[1]} wide, but"
                f" those to join by {source['encoder']}, {embeddings_NE.shape[1]} wide; prepare "
                "both with the same encoder"
            )
        parts.append(other_NE)
        joined.append({"dataset": other.get("dataset"), "embeddings_checksum": other["checksum"]})
    return np.concatenate(parts) if folders else embeddings_NE, joined


def _beside_cooccurrence(
    embeddings_NE: np.ndarray, source: dict, folder: str, width: int, seed: int, joined_with: str
) -> tuple[np.ndarray, dict[str, Any]]:
    """Content embeddings with those of co-occurrence beside them, and what a header says of it."""
    if width < 0 or joined_with:
        raise InputError(
            f"cooccurrence_width={width}, joined_with={joined_with!r}: give a width of at least 1, "
            "and no other folders, whose items are in no common sequence"
        )
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    beside_NX = encode_cooccurrence(
        sequences.training_sequences(), sequences.num_items, width, seed
    )
    # As much variance as content has, for schemes that do not standardise.
    beside_NX *= np.sqrt(embeddings_NE.var(axis=0).sum() / beside_NX.var(axis=0).sum())
    header = {
        "encoder": f"{source['encoder']} + {COOCCURRENCE}",
        "cooccurrence_width": beside_NX.shape[1],
        "interactions_checksum": sequences.interactions_checksum(),
    }
    return np.hstack([embeddings_NE, beside_NX]), header


def _require_no_collapse(codes: Codes, min_codebook_usage: float) -> None:
    in_use = codes_used(codes.codes_NL)
    for level, (used, size) in enumerate(zip(in_use, codes.codebook_sizes, strict=True)):
        if used / size < min_codebook_usage:
            raise InputError(
                f"codebook {level} has collapsed: {used} of its {size} codes are in use, less "
                f"than min_codebook_usage = {min_codebook_usage:.0%}; train for more epochs, clip "
                "gradients, restart dead codes, lower codebook_sizes, or tell items "
                "with equal embeddings apart by texts"
            )


def _write(
    folder: pathlib.Path, table: SemanticIdTable, codes: Codes, health: dict, configuration: str
) -> None:
    """The table comes last: it vouches for the quantiser by its checksum."""
    rows = [*codes.history, {"final": True, **health}]
    _write_text(folder / "config.gin", configuration)
    _write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
    if codes.quantizer is not None:
        codes.quantizer.save(folder / quantizer.FILE, table.header)
    table.save(folder / "semantic_ids.npz")
    if codes.quantizer is None:
        (folder / quantizer.FILE).unlink(missing_ok=True)


def _write_text(path: pathlib.Path, text: str) -> None:
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def list_schemes() -> dict:
    """Prints the names of the schemes."""
    names = [scheme.__name__ for scheme in schemes.SCHEMES]
    print("\n".join(names))
    return {"schemes": names}


def _with_card(argv: Sequence[str]) -> list[str]:
    """--scheme=NAME stands for the card of that name."""
    argv = list(argv)
    for place, argument in enumerate(argv):
        flag, equals, name = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or flag != "scheme":
            continue
        if not equals:
            name = argv.pop(place + 1) if place + 1 < len(argv) else ""
        argv[place] = f"--gin_file=gin/ids/{name}.gin"
        break
    return argv


def main(argv=None):
    """Runs the verb from the command line."""
    argv = _with_card(sys.argv if argv is None else argv)
    if "--list" in argv:
        command_line.run(list_schemes, [argument for argument in argv if argument != "--list"])
        return
    adds = any(argument.lstrip("-").partition("=")[0] == "add" for argument in argv[1:])
    command_line.run(add_items if adds else make_ids, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.make_ids import main

    main()
