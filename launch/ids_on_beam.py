"""Semantic IDs as an Apache Beam pipeline: embedding, codes and collision tokens, in shards.

    pip install -e .[beam]
    python -m launch.ids_on_beam --folder=work/beauty --ids=rqvae --output=work/beauty/ids/beam

An RQ-VAE (or another scheme with a quantizer.npz) is trained on one machine, on a sample; what
grows with the catalogue runs here: rows are embedded (`--embed`, else read from the folder's
embeddings) and given codes shard by shard, items with equal codes meet in one group, and there the
collision tokens are counted. The result is the table that `make_ids` writes, ID for ID.
"""

import json
import pathlib
import shlex
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from tiger_jax import artifacts, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.new_items import load_frozen
from tiger_jax.semantic_ids import quantizer
from tiger_jax.semantic_ids.quantizer import Quantizer
from tiger_jax.semantic_ids.table import SemanticIdTable

_EXAMPLES = """
python -m launch.ids_on_beam --folder=work/beauty --ids=rqvae --output=work/beauty/ids/beam
python -m launch.ids_on_beam --folder=/mnt/beauty --ids=rqvae --output=/mnt/ids --beam_options="--runner=FlinkRunner --flink_master=host:8081"
"""  # noqa: E501

# As Beam calls the shards of a text.
_SHARDS = "shard-*-of-*.jsonl"


class ShardCodes(beam.DoFn):
    """(first row, end row) -> (codes, item number) of each of them.

    Args:
      folder: prepared folder.
      ids: name of IDs whose quantiser is used.
      parameters_checksum: of that quantiser.
      embed: whether texts are embedded here, or embeddings read from the folder.
    """

    def __init__(self, folder: str, ids: str, parameters_checksum: str, embed: bool):
        self.folder, self.ids, self.embed = folder, ids, embed
        self.parameters_checksum = parameters_checksum

    def setup(self):
        """Loads the quantiser and, where needed, the encoder: once a worker."""
        home = pathlib.Path(self.folder)
        self.quantizer = Quantizer.load(
            home / "ids" / self.ids / quantizer.FILE, self.parameters_checksum
        )
        self.embeddings_NE, source = content.load_embeddings(self.folder)
        if self.embed:
            self.texts = content.sentences(
                content.load_items(self.folder), source["text_fields"], source["template"]
            )
            fitted = self.texts[: source.get("fitted_items", len(self.texts))]
            self.encode = content.text_encoder(source, fitted)

    def process(self, shard: tuple[int, int]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Codes of the items of one shard."""
        first, end = shard
        if self.embed:
            embeddings_BE = self.encode(self.texts[first:end])
        else:
            embeddings_BE = self.embeddings_NE[first:end]
        for row, codes in enumerate(self.quantizer.codes(embeddings_BE).tolist(), start=first):
            yield tuple(codes), row + 1


def semantic_ids(
    group: tuple[tuple[int, ...], Iterable[int]], collision_size: int | None
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(codes, their items) -> (item number, Semantic ID): tokens count in item order."""
    codes, item_numbers = group
    item_numbers = sorted(item_numbers)
    if collision_size is None:
        if len(item_numbers) > 1:
            raise InputError(f"{len(item_numbers)} items share the codes {codes}")
        yield item_numbers[0], codes
        return
    if len(item_numbers) > collision_size:
        raise InputError(
            f"{len(item_numbers)} items share the codes {codes}, but the collision token tells "
            f"only {collision_size} apart"
        )
    for token, item_number in enumerate(item_numbers):
        yield item_number, (*codes, token)


def ids_on_beam(
    folder: str,
    ids: str,
    output: str,
    embed: bool = False,
    shard_items: int = 1024,
    beam_options: str = "--runner=FnApiRunner",
) -> dict:
    """Runs the pipeline and writes OUTPUT/semantic_ids.npz beside its shards.

    Args:
      folder: prepared folder.
      ids: IDs in it, made by make_ids, whose quantiser, sizes and header are used.
      output: folder to write.
      embed: whether the items' texts are embedded again.
      shard_items: items of a shard.
      beam_options: flags of Beam, such as --runner; as it is, all runs in this process.

    Raises:
      InputError: IDs that are not of these items and embeddings, or whose codes do not come from
        an item's content alone.
    """
    artifacts.require_at_least(1, shard_items=shard_items)
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    num_items = sequences.num_items
    path = pathlib.Path(folder, "ids", ids, "semantic_ids.npz")
    made = SemanticIdTable.load(path)
    if made.header.get("balanced"):
        raise InputError(
            f"{ids}: IDs whose last codes were shared out (balance), which takes all items at once;"
            " make them without"
        )
    if made.header.get("cooccurrence_width"):
        raise InputError(
            f"{ids}: IDs that see which items come together in training, which takes all sequences "
            "at once; make some of content alone"
        )
    frozen = load_frozen(path, made, sequences, content.load_embeddings(folder)[0])
    if made.num_items < num_items:
        raise InputError(
            f"{path}: has IDs for the first {made.num_items:,} of {num_items:,} items; give it the "
            "others by make_ids --add"
        )
    collision_size = made.codebook_sizes[-1] if made.header["has_collision_token"] else None
    shards = [
        (first, min(first + shard_items, num_items)) for first in range(0, num_items, shard_items)
    ]
    target = pathlib.Path(output)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob(_SHARDS):
        old.unlink()
    with beam.Pipeline(options=PipelineOptions(shlex.split(beam_options))) as pipeline:
        _ = (
            pipeline
            | "shards" >> beam.Create(shards)
            | "spread" >> beam.Reshuffle()
            | "codes" >> beam.ParDo(ShardCodes(folder, ids, frozen.checksum(), embed))
            | "equal codes" >> beam.GroupByKey()
            | "collision tokens" >> beam.FlatMap(semantic_ids, collision_size)
            | "lines" >> beam.Map(json.dumps)
            | "write" >> beam.io.WriteToText(str(target / "shard"), file_name_suffix=".jsonl")
        )
    semantic_ids_NI = np.zeros((num_items + 1, made.id_length), np.int32)
    for shard in sorted(target.glob(_SHARDS)):
        for line in shard.read_text().splitlines():
            item_number, semantic_id = json.loads(line)
            semantic_ids_NI[item_number] = semantic_id
    table = SemanticIdTable(semantic_ids_NI, made.codebook_sizes, made.header)
    table.save(target / "semantic_ids.npz")
    print(f"{output}: {table.num_items:,} items")
    return {"num_items": table.num_items, **table.header}


def main(argv=None) -> None:
    """Runs the pipeline from the command line."""
    command_line.run(ids_on_beam, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    main()
