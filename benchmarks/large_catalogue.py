"""Semantic IDs for millions of items in bounded memory, from a memory-mapped file.

    python -m benchmarks.large_catalogue --path=work/large.npy --num_items=10000000 --json

Writes float16 embeddings if the file is not there, trains on a sample, gives all items their codes
block by block, makes the table and looks IDs up. Memory is what the process holds beyond the map
of the file (RssAnon), watched while it runs. The file stays; 10 million items of 768 are 15 GB.
"""

import contextlib
import os
import pathlib
import re
import threading
import time

import jax
import numpy as np
import optax

from tiger_jax import artifacts, command_line
from tiger_jax.semantic_ids import schemes

# TIGER section 4.
_NETWORK = {
    "hidden_sizes": (512, 256, 128),
    "latent_size": 32,
    "codebook_sizes": (256, 256, 256),
}

_EXAMPLES = """
python -m benchmarks.large_catalogue --path=work/large.npy --num_items=100000 --json
"""


def benchmark(
    path: str,
    num_items: int = 10_000_000,
    embed_size: int = 768,
    sample_items: int = 100_000,
    num_epochs: int = 10,
    seed: int = 0,
) -> dict:
    """Makes the IDs of a large catalogue by an RQ-VAE and measures time and memory of each part.

    Args:
      path: the .npy file of embeddings, float16 [items, width].
      num_items: items to write where there is no such file.
      embed_size: width of what is written.
      sample_items: items that the RQ-VAE is trained on.
      num_epochs: passes over the sample.
      seed: of everything.

    Returns:
      Seconds of each part, items a second of assignment, peak memory beyond the map in GiB, and
      the health of the IDs.
    """
    seconds = {}
    if not pathlib.Path(path).is_file():
        with _timed(seconds, "write_file"):
            _write(f"{path}.part", num_items, embed_size, seed)
            os.replace(f"{path}.part", path)
    embeddings_NE = np.load(path, mmap_mode="r")
    with _watched_memory() as peak:
        before = _anonymous_gib()
        with _timed(seconds, "train_and_assign"):
            # One pass more than training: the codes of all items.
            codes = schemes.rqvae(
                embeddings_NE,
                seed,
                **_NETWORK,
                beta=0.25,
                optimizer=optax.adamw(1e-3),
                batch_size=1024,
                num_epochs=num_epochs,
                sample_items=sample_items,
            )
        with _timed(seconds, "table"):
            table = codes.table({"scheme": "rqvae", "seed": seed}, collision_size=2**16)
        with _timed(seconds, "health"):
            health = table.health()
        rows = np.random.default_rng(seed).integers(1, table.num_items + 1, 1_000_000)
        with _timed(seconds, "build_look_up"):
            table.item_numbers(table.semantic_ids_NI[1])
        with _timed(seconds, "look_up_a_million"):
            found = table.item_numbers(table.semantic_ids_NI[rows])
        np.testing.assert_array_equal(found, rows)
    # Assignment alone, of a part that is not in memory yet.
    part_NE = embeddings_NE[-min(500_000, len(embeddings_NE)) :]
    with _timed(seconds, "assign_part"):
        part_NL = codes.quantizer.codes(part_NE)
    np.testing.assert_array_equal(part_NL, codes.codes_NL[-len(part_NE) :])
    return {
        "items": table.num_items,
        "embed_size": embeddings_NE.shape[1],
        "file_gib": os.path.getsize(path) / 2**30,
        "seconds": seconds,
        "assigned_items_per_s": len(part_NE) / seconds["assign_part"],
        "peak_gib_beyond_the_map": peak[0],
        "gib_before": before,
        "table_bytes_per_item": table.semantic_ids_NI.nbytes / table.num_items,
        **health,
        "explained_variance": codes.explained_variance,
        "device": jax.devices()[0].device_kind,
        **artifacts.provenance(),
    }


def _write(path: str, num_items: int, embed_size: int, seed: int) -> None:
    """Items around centres around centres: a sum of two vectors, a pair of its own for each."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(num_items)))
    coarse_PE = rng.normal(size=(side, embed_size)).astype(np.float32)
    fine_PE = 0.5 * rng.normal(size=(side, embed_size)).astype(np.float32)
    items_NE = np.lib.format.open_memmap(path, "w+", np.float16, (num_items, embed_size))
    for row, coarse_E in enumerate(coarse_PE):
        part_NE = items_NE[row * side : (row + 1) * side]
        part_NE[:] = coarse_E + fine_PE[: len(part_NE)]
    items_NE.flush()


@contextlib.contextmanager
def _timed(seconds: dict, name: str):
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started
    print(f"{name}: {seconds[name]:.2f} s, {_anonymous_gib():.2f} GiB", flush=True)


@contextlib.contextmanager
def _watched_memory(period: float = 0.1):
    """Yields a list whose one number is the most memory seen, in GiB."""
    peak, over = [0.0], threading.Event()

    def watch():
        while not over.wait(period):
            peak[0] = max(peak[0], _anonymous_gib())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
        # What takes less than a period is seen once at least.
        peak[0] = max(peak[0], _anonymous_gib())
    finally:
        over.set()
        thread.join()


def _anonymous_gib() -> float:
    """Memory of this process that stands for no file, in GiB (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 2**20


def main(argv=None):
    """Runs the benchmark from the command line."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.large_catalogue import main

    main()
