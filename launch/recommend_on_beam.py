"""Recommendations for many users as an Apache Beam pipeline: shards of Parquet, resumable.

    pip install -e .[beam]
    python -m launch.recommend_on_beam --folder=work/beauty --run=tiger --output=work/recommended

Users come in shards of consecutive rows. A shard is read, answered by `Recommender` inside Beam's
RunInference and written as one file, whole or not at all; what is there already is not done again.
Nothing waits for anything but its own shard. All workers have to see the folder, the histories and
the output under the same paths.
"""

import glob
import itertools
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from tiger_jax import artifacts, checkpoints, command_line
from tiger_jax.artifacts import InputError
from tiger_jax.data import records
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.data.tables import open_table
from tiger_jax.recommender import Recommender
from tiger_jax.requests import Answer

# Readers of Parquet folders leave out names that begin so.
_SETTINGS = "_recommended.json"
_MADE_BY = "python -m launch.recommend_on_beam"
_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "user": pa.string(),
        "item_ids": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "unknown": pa.list_(pa.string()),
    }
)

_EXAMPLES = """
python -m launch.recommend_on_beam --folder=work/beauty --run=tiger --output=work/beauty/recommended
python -m launch.recommend_on_beam --folder=work/beauty --run=tiger --output=out --histories='users/*.jsonl'
python -m launch.recommend_on_beam --folder=/mnt/beauty --run=tiger --output=/mnt/out --beam_options="--runner=FlinkRunner --flink_master=host:8081"
"""  # noqa: E501


class Source(NamedTuple):
    """Rows of users and their histories: a file, or the users of a prepared folder.

    Attributes:
      path: a table with the columns user and history, or sequences.npz.
      first_row: number of its first row among those of all sources.
      num_rows: number of its rows.
    """

    path: str
    first_row: int
    num_rows: int


class Shard(NamedTuple):
    """Rows that are answered and written together.

    Attributes:
      file: to write.
      first_row: number of the first of them among those of all sources.
      users: raw ids, None where a row has none.
      histories: raw item ids of each, oldest first.
    """

    file: str
    first_row: int
    users: list[str | None]
    histories: list[list[str]]


class TigerHandler(ModelHandler[Shard, tuple[Shard, list[Answer]], Recommender]):
    """What RunInference asks: a shard is answered by one call, which makes batches of its own.

    Args:
      folder, run, step, num_beams, batch_size: of `Recommender.load`.
      num_results, exclude_history: of `Recommender.recommend_raw`.
    """

    def __init__(
        self,
        folder: str,
        run: str,
        step: int,
        num_beams: int,
        batch_size: int,
        num_results: int,
        exclude_history: bool,
    ):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._run = (folder, run, step)
        self._options = {"num_beams": num_beams, "batch_size": batch_size}
        self._asked = (num_results, exclude_history)

    def load_model(self) -> Recommender:
        """Once a worker process."""
        return Recommender.load(*self._run, **self._options)

    def run_inference(
        self, batch: Sequence[Shard], model: Recommender, inference_args: dict | None = None
    ) -> Iterator[tuple[Shard, list[Answer]]]:
        """The answers of each shard."""
        del inference_args
        for shard in batch:
            yield shard, model.recommend_raw(shard.users, shard.histories, *self._asked)


def recommend_on_beam(
    folder: str,
    run: str,
    output: str,
    histories: str = "",
    num_results: int = 10,
    exclude_history: bool = True,
    num_beams: int = 30,
    batch_size: int = 64,
    shard_users: int = 1024,
    step: int | None = None,
    beam_options: str = "--runner=FnApiRunner",
) -> dict:
    """Writes the best items of every user to OUTPUT, as Recommender.recommend_raw gives them.

    OUTPUT becomes a folder of Parquet files with a row for each user: row (its number in what was
    read, from 0 on), user, item_ids and scores (best first, log p in nats), unknown (ids of the
    history that are no items, skipped). Given again after a stop, the same command does what is
    missing.

    Args:
      folder: the prepared folder.
      run: name of the run in it, made by tiger_jax.train.
      output: folder to write.
      histories: a file of JSON lines or Parquet with the columns history (raw item ids, oldest
        first) and, unless nothing is to be told of the users, user (raw id or null); or a pattern
        of several, as 'users/*.parquet'. If not given, all users of the prepared folder with all
        their items.
      num_results: number of items for each.
      exclude_history: leaves out the items of the history.
      num_beams: width of the search.
      batch_size: users in one search.
      shard_users: users of a shard: what a stop loses at most.
      step: checkpoint of the run; the best one by validation if not given.
      beam_options: flags of Beam, such as --runner; as it is, all runs in this process.
    """
    if shard_users < 1:
        raise InputError(f"shard_users={shard_users}: at least 1")
    paths = sorted(glob.glob(histories)) if histories else [str(pathlib.Path(folder, SEQUENCES))]
    if not paths:
        raise InputError(f"{histories}: no such file; give a file or a pattern of some")
    recommender = Recommender.load(folder, run, step, num_beams=num_beams, batch_size=batch_size)
    # Refuses what cannot be asked, before anybody starts.
    recommender.recommend(None, [], num_results)
    sources, num_rows = [], 0
    for path in paths:
        sources.append(Source(path, num_rows, sum(1 for _ in read(path))))
        num_rows += sources[-1].num_rows
    settings = {
        "run": run,
        "step": recommender.step,
        "checkpoint": checkpoints.identity(
            checkpoints.folder_of(pathlib.Path(folder, "runs", run)), recommender.step
        ),
        "table": recommender.table.checksum(),
        "histories": [artifacts.file_checksum(path) for path in paths],
        "num_results": num_results,
        "exclude_history": exclude_history,
        "num_beams": num_beams,
        "shard_users": shard_users,
    }
    _settle(pathlib.Path(output, _SETTINGS), settings)
    files = [file for source in sources for _, file in _shards_of(source, output, shard_users)]
    done = sum(pathlib.Path(file).is_file() for file in files)
    handler = TigerHandler(
        folder, run, recommender.step, num_beams, batch_size, num_results, exclude_history
    )
    if done < len(files):
        with beam.Pipeline(options=PipelineOptions(shlex.split(beam_options))) as pipeline:
            _ = (
                pipeline
                | "sources" >> beam.Create(sources)
                | "missing shards" >> beam.FlatMap(missing_shards, output, shard_users)
                | "spread" >> beam.Reshuffle()
                | "recommend" >> RunInference(handler)
                | "write" >> beam.MapTuple(write)
            )
    print(f"{output}: {num_rows:,} users in {len(files):,} shards, of which {done:,} were there")
    return {"num_users": num_rows, "num_shards": len(files), "shards_done_before": done, **settings}


def read(path: str) -> Iterator[tuple[str | None, list[str]]]:
    """(raw user id, raw item ids) of each row of a source.

    Raises:
      InputError: no such columns, or a row that does not hold what they should.
    """
    if pathlib.Path(path).name == SEQUENCES:
        sequences = Sequences.load(path)
        for row, user in enumerate(sequences.user_ids):
            yield user, [sequences.item_ids[item] for item in sequences.sequence(row)]
        return
    table = open_table(pathlib.Path(path))
    table.require("history", "renaming one")
    columns = [name for name in ("user", "history") if name in table.columns]
    for where, row in table.read(columns):
        user, history = row.get("user"), row.get("history")
        if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
            raise InputError(f"{where}: history must be a list of raw item ids, which are texts")
        if not isinstance(user, str | None):
            raise InputError(f"{where}: user must be a raw id, which is a text, or null")
        if not all(map(records.is_utf8, [user or "", *history])):
            raise InputError(f"{where}: user and history must be Unicode; mend the ids")
        yield user, history


def missing_shards(source: Source, output: str, shard_users: int) -> Iterator[Shard]:
    """The shards of a source that have not been written yet."""
    rows = read(source.path)
    for first_row, file in _shards_of(source, output, shard_users):
        shard = list(itertools.islice(rows, shard_users))
        if not pathlib.Path(file).is_file():
            users, histories = map(list, zip(*shard, strict=True))
            yield Shard(file, first_row, users, histories)


def write(shard: Shard, answers: Iterable[Answer]) -> None:
    """One file, whole or not at all."""
    columns = {
        "row": range(shard.first_row, shard.first_row + len(shard.users)),
        "user": shard.users,
        "item_ids": [answer.item_ids for answer in answers],
        "scores": [answer.scores for answer in answers],
        "unknown": [answer.unknown for answer in answers],
    }
    with artifacts.atomic_path(shard.file) as temporary:
        pq.write_table(pa.table(columns, schema=_SCHEMA), temporary)


def _shards_of(source: Source, output: str, shard_users: int) -> Iterator[tuple[int, str]]:
    """First row and file of each shard."""
    for first in range(source.first_row, source.first_row + source.num_rows, shard_users):
        yield first, str(pathlib.Path(output, f"rows-{first:012d}.parquet"))


def _settle(path: pathlib.Path, settings: dict) -> None:
    """Writes down what the shards are made of; InputError where those there are made of another."""
    if path.exists():
        before = artifacts.load_json(path, _MADE_BY)
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            raise InputError(
                f"{path.parent}: holds shards made with another {', '.join(changed)}; choose "
                "another --output, or remove it"
            )
    artifacts.save_json(path, settings)


def main(argv=None) -> None:
    """Runs the pipeline from the command line."""
    command_line.run(recommend_on_beam, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    main()
