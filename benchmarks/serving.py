"""A load test of the service over loopback, with a new table taken up in the middle.

    python -m benchmarks.serving --json

A folder is made with a generated catalogue and a network of the paper's size with random weights:
speed does not depend on what they are. Clients ask as fast as they are answered; the process of
the service and that of the clients share the machine.
"""

import asyncio
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks.decoding import catalogue
from benchmarks.training import paper_model
from tiger_jax import artifacts, checkpoints, command_line, mesh
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.semantic_ids.table import SemanticIdTable

_EXAMPLES = """
python -m benchmarks.serving --json
python -m benchmarks.serving --clients=8 --requests=200
"""


def benchmark(
    items: int = 12_101,
    clients: int = 64,
    requests: int = 2_000,
    num_beams: int = 20,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Requests a second, latencies, and whether any request was lost over a swap and a stop.

    Args:
      items: size of the catalogue.
      clients: how many ask at once, each one request at a time.
      requests: in all; after half of them the service is told to take up a larger table.
      num_beams: width of the search.
      seed: of catalogue and histories.
      output: a file for the result, besides.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        sequences, table = _prepare(folder, items, seed)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "tiger_jax.serve", f"--folder={folder}", "--run=random"]
        command += [f"--port={port}", f"--num_beams={num_beams}"]
        service = subprocess.Popen(command)
        try:
            result = asyncio.run(
                _load(f"http://127.0.0.1:{port}", folder, sequences, table, clients, requests, seed)
            )
            service.send_signal(signal.SIGTERM)
            result["exit_code"] = service.wait(60)
        finally:
            service.kill()
    result |= {
        "items": items,
        "clients": clients,
        "requests": requests,
        "num_beams": num_beams,
        "hardware": mesh.hardware(),
        **artifacts.provenance(),
    }
    if output:
        artifacts.save_json(output, result)
    return result


def _prepare(folder: pathlib.Path, num_items: int, seed: int) -> tuple[Sequences, SemanticIdTable]:
    """A prepared folder with one run."""
    item_ids = ("", *(f"item {number}" for number in range(1, num_items + 1)))
    offsets = np.array([0, 3], np.int64)
    header = {"items_checksum": "", "metadata_checksum": "", "dataset": "generated"}
    sequences = Sequences(("u",), item_ids, np.arange(1, 4, dtype=np.int32), offsets, header)
    header["items_checksum"] = sequences.items_checksum(num_items)
    sequences.save(folder / SEQUENCES)
    codes_NL = catalogue(num_items, seed)[1:, :3]
    table = SemanticIdTable.from_codes(
        codes_NL, (256, 256, 256), {"items_checksum": header["items_checksum"]}
    )
    table.save(_table_path(folder))
    model = paper_model("float32")
    run = folder / "runs" / "random"
    settings = {
        "ids": "generated",
        "table": table.checksum(),
        "network": {name: getattr(model.config, name) for name in vars(model.config)},
        "normalize": model.normalize,
        "num_user_tokens": 2000,
        "max_history": 20,
    }
    artifacts.save_json(run / "run.json", settings)
    params = model.init(jax.random.key(seed))
    checkpoints.save(run / "checkpoints", 1, params, {}, {"best": {"step": 1}})
    return sequences, table


def _grow(folder: pathlib.Path, sequences: Sequences, table: SemanticIdTable) -> int:
    """A tenth more items, as make_ids --add writes them."""
    count = table.num_items // 10
    grown = sequences.with_items([f"new item {number}" for number in range(count)], "")
    codes_ML = np.random.default_rng(1).integers(0, 256, (count, 3))
    header = {"items_checksum": grown.header["items_checksum"]}
    table.with_new_items(codes_ML, header).save(_table_path(folder))
    grown.save(folder / SEQUENCES)
    return grown.num_items


def _table_path(folder: pathlib.Path) -> pathlib.Path:
    return folder / "ids" / "generated" / "semantic_ids.npz"


async def _load(url, folder, sequences, table, clients, requests, seed) -> dict:
    import httpx

    random = np.random.default_rng(seed)
    limits = httpx.Limits(max_connections=clients + 2)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        for _ in range(600):
            try:
                await client.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.5)
        seconds, failures, sizes = [], [], []
        lengths = np.minimum(random.geometric(0.12, requests), 20)
        pending = iter(range(requests))
        swap = asyncio.Event()

        async def ask():
            for number in pending:
                if number == requests // 2:
                    swap.set()
                rows = random.integers(1, sequences.num_items + 1, lengths[number])
                history = [sequences.item_ids[row] for row in rows]
                started = time.perf_counter()
                response = await client.post("/recommend", json={"history": history})
                seconds.append(time.perf_counter() - started)
                if response.status_code != 200 or len(response.json()["items"]) != 10:
                    failures.append(response.text)
                else:
                    sizes.append(response.json()["num_items"])

        async def reload():
            await swap.wait()
            grown = _grow(folder, sequences, table)
            started = time.perf_counter()
            response = await client.post("/reload")
            assert response.json() == {"num_items": grown}, response.text
            return time.perf_counter() - started

        started = time.perf_counter()
        swapping = asyncio.create_task(reload())
        await asyncio.gather(*(ask() for _ in range(clients)))
        elapsed = time.perf_counter() - started
        swap_s = await swapping
        last = await client.post("/recommend", json={"history": ["new item 0"]})
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    result = {
        "requests_per_s": requests / elapsed,
        "p50_s": p50,
        "p95_s": p95,
        "p99_s": p99,
        "lost": requests - len(sizes),
        "failures": failures[:3],
        "answered_by_catalogue_size": {size: sizes.count(size) for size in sorted(set(sizes))},
        "swap_s": swap_s,
        "new_item_known_after_swap": last.json()["unknown"] == [],
    }
    print(result)
    return result


def main(argv=None):
    """Command line of the benchmark."""
    command_line.run(benchmark, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from benchmarks.serving import main

    main()
