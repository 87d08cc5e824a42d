"""Training over many devices and processes is training on one."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tiger_jax import checkpoints, mesh, prepare, train, train_state
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.vocabulary import Vocabulary

ROOT = pathlib.Path(__file__).resolve().parent.parent
NETWORK = NetworkConfig(
    vocab_size=96,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.1,
    logits_via_embedding=False,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prepared folder with random Semantic IDs named "ids"."""
    folder = tmp_path_factory.mktemp("data")
    prepare.prepare("synthetic", str(folder), synthetic_users=100, synthetic_items=40)
    embeddings, source = content.load_embeddings(folder)
    codes = np.random.default_rng(0).integers(0, 8, (len(embeddings), 3))
    header = {"items_checksum": source["items_checksum"], "encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes, (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "ids" / "semantic_ids.npz")
    return folder


def run(folder, name, num_steps, network=NETWORK, **devices):
    train.train(
        str(folder),
        "ids",
        name,
        network,
        train_state.adafactor(train_state.rsqrt_schedule(0.01, 10)),
        num_steps=num_steps,
        batch_size=16,
        max_history=3,
        num_user_tokens=20,
        seed=0,
        eval_period=4,
        eval_users=20,
        num_beams=10,
        num_groups=2,
        steps_per_call=2,
        group_multiple=8,
        **devices,
    )


def log(folder, name):
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["train_losses"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def on_one_device(folder):
    run(folder, "one", 8)
    return log(folder, "one")


@pytest.mark.parametrize(("data", "model"), [(8, 1), (4, 2)])
def test_eight_devices_train_like_one_and_one_goes_on_from_them(data, model, folder, on_one_device):
    name = f"data{data}_model{model}"
    run(folder, name, 4, data_parts=data, model_parts=model)
    run(folder, name, 8)
    found = log(folder, name)
    assert sorted(found) == [4, 8]
    for step, losses in on_one_device.items():
        # Sums over the devices are taken in another order.
        np.testing.assert_allclose(found[step], losses, rtol=1e-5)


def test_packed_sequences_train_alike_on_one_device_and_on_eight(folder):
    packed = {
        "network": dataclasses.replace(NETWORK, causal_encoder=True),
        "train_on": "sequences",
        "order_noise": 1.0,
    }
    run(folder, "packed_one", 4, **packed)
    run(folder, "packed_eight", 4, data_parts=4, model_parts=2, **packed)
    np.testing.assert_allclose(
        log(folder, "packed_eight")[4], log(folder, "packed_one")[4], rtol=1e-5
    )


_PROCESS = """
import jax, pathlib, sys
sys.path[:0] = [{tests!r}, {root!r}]
import test_mesh
test_mesh.run(pathlib.Path({folder!r}), "two", 8, data_parts=2, processes=sys.argv[1])
"""


def test_two_processes_train_like_one_and_the_first_writes(folder, on_one_device):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    code = _PROCESS.format(tests=str(ROOT / "tests"), root=str(ROOT), folder=str(folder))
    flags = "--xla_backend_optimization_level=0"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"{address},2,{index}"],
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "best checkpoint" in outputs[0][0]
    assert "best checkpoint" not in outputs[1][0]
    found = log(folder, "two")
    for step, losses in on_one_device.items():
        np.testing.assert_allclose(found[step], losses, rtol=1e-5)
    assert checkpoints.steps(folder / "runs" / "two" / "checkpoints")[-1] == 8


def test_parameters_lie_where_their_axes_say():
    model = TigerModel(NETWORK, Vocabulary((8, 8, 8, 16), 20))
    optimizer = train_state.adafactor(train_state.rsqrt_schedule(0.01, 10))
    state = train_state.TrainState.create(model.init(jax.random.key(0)), optimizer)
    devices = mesh.make(2, 4 // 2, NETWORK)
    shardings = mesh.state_shardings(devices, model, state)
    placed = mesh.put(state, shardings)
    kernel = placed.params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 16)}
    jax.tree.map(np.testing.assert_array_equal, mesh.to_host(placed, devices), state)


@pytest.mark.parametrize(
    ("data", "model", "sizes", "message"),
    [
        (3, 3, {}, "there are 8 devices"),
        (0, 1, {}, "there are 8 devices"),
        (2, 4, {"num_heads": 6}, "num_heads = 6 does not divide"),
        (2, 4, {"num_heads": 4, "vocab_size": 3026}, "vocab_size = 3026 does not divide"),
        (2, 3, {"num_heads": 6, "vocab_size": 3027}, "mlp_dim = 32 does not divide"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(data, model, sizes, message):
    with pytest.raises(InputError, match=message):
        mesh.make(data, model, dataclasses.replace(NETWORK, **sizes))


@pytest.mark.parametrize("processes", ["2", "localhost,2,0", "localhost:1,two,0", "a:1,2", "auto"])
def test_processes_that_cannot_be_understood_are_refused(processes):
    with pytest.raises(InputError, match=r"give (auto, or )?HOST:PORT,COUNT,INDEX"):
        mesh.join(processes)


def test_groups_that_the_devices_cannot_share_are_refused_at_the_start(folder):
    with pytest.raises(InputError, match="group_multiple=8: 3 data parts"):
        run(folder, "refused", 4, data_parts=3)
    assert not (folder / "runs" / "refused").exists()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_hardware_counts_the_cores_that_the_process_may_use():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert mesh.hardware().startswith("cpu, 1 CPU core (")
    finally:
        os.sched_setaffinity(0, cores)
    if len(cores) > 1:
        assert mesh.hardware().startswith(f"cpu, {len(cores)} CPU cores (")
