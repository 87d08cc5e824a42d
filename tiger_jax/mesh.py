"""Devices as a mesh: "data" parts share every batch, "model" parts share every parameter.

Which axis of a parameter is shared is a table of the network's logical names, that of T5X. The
optimizer's state lies whole on every device: beside the activations it is small.
"""

import contextlib
import functools
import os
import platform

import flax
import jax
import numpy as np
from flax.linen import partitioning
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tiger_jax.artifacts import InputError
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.train_state import TrainState

LOGICAL_AXES = (
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", None),
    ("relpos_buckets", None),
)


def hardware() -> str:
    """What this process computes on, as results name it: the accelerator, CPU cores, processor.

    Of the cores those that it may use, where the system can tell.
    """
    held_to = getattr(os, "sched_getaffinity", None)
    cores = len(held_to(0)) if held_to else os.cpu_count()
    kind, noun = jax.devices()[0].device_kind, "core" if cores == 1 else "cores"
    return f"{kind}, {cores} CPU {noun} ({_processor()})"


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def join(processes: str) -> None:
    """Makes this process one of several, before anything else is asked of JAX.

    Args:
      processes: "auto" where JAX can tell (TPU VMs, Slurm); "HOST:PORT,COUNT,INDEX", with the
        address of process 0, elsewhere; "" for a process alone.

    Raises:
      InputError: it is none of these, or JAX cannot tell.
    """
    if not processes:
        return
    if processes == "auto":
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "processes=auto: nothing here says which processes there are, as TPU VMs and Slurm "
                "do; give HOST:PORT,COUNT,INDEX"
            ) from error
        return
    address, *numbers = processes.split(",")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or ":" not in address:
        raise InputError(
            f"processes={processes!r}: give auto, or HOST:PORT,COUNT,INDEX, such as "
            "localhost:9876,2,0"
        )
    jax.distributed.initialize(address, *map(int, numbers))


def make(data_parts: int, model_parts: int, network: NetworkConfig) -> Mesh:
    """A mesh of the first data_parts * model_parts devices; of all processes, if there are more.

    Raises:
      InputError: there are not so many, some process would have none, or the sizes of the network
        that model_parts share do not divide by them.
    """
    devices = jax.devices()
    wanted = data_parts * model_parts
    if min(data_parts, model_parts) < 1 or wanted > len(devices):
        raise InputError(
            f"data_parts={data_parts}, model_parts={model_parts}: there are {len(devices)} devices"
        )
    if jax.process_count() > 1 and wanted < len(devices):
        raise InputError(
            f"data_parts={data_parts}, model_parts={model_parts}: several processes must use all "
            f"their {len(devices)} devices"
        )
    network.require_shareable(model_parts, f"model_parts={model_parts}")
    return Mesh(np.array(devices[:wanted]).reshape(data_parts, model_parts), ("data", "model"))


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shared_by_data(mesh: Mesh) -> NamedSharding:
    """The first axis, a batch's, in as many pieces as there are data parts."""
    return NamedSharding(mesh, PartitionSpec("data"))


def state_shardings(mesh: Mesh, model: TigerModel, state: TrainState) -> TrainState:
    """Where each array of a training state lies."""
    names = partitioning.get_axis_names(model.param_axes())
    specs = flax.core.unfreeze(partitioning.logical_to_mesh(names, LOGICAL_AXES))
    is_spec = {"is_leaf": lambda leaf: isinstance(leaf, PartitionSpec)}
    return TrainState(
        step=everywhere(mesh),
        params=jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, **is_spec),
        opt_state=jax.tree.map(lambda _: everywhere(mesh), state.opt_state),
    )


def put(tree, shardings):
    """Arrays that every process has whole -> the same, laid out over the devices of all.

    Args:
      tree: arrays.
      shardings: one for all of them, or a tree of them.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def put_leaf(leaf, sharding):
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put_leaf, tree, shardings)


def to_host(tree, mesh: Mesh):
    """The whole arrays, as numpy, in every process; all processes must ask together.

    Copies: on a CPU a mere view would be of memory that the next training step takes over.
    """
    return jax.tree.map(np.array, _unchanged(everywhere(mesh))(tree))


@functools.cache
def _unchanged(sharding: NamedSharding):
    """The compiled program that gives arrays another sharding."""
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def require_agreement(value: int, what: str) -> None:
    """Raises InputError where the processes found different values: they share no storage."""
    if len(set(np.ravel(multihost_utils.process_allgather(np.int32(value))).tolist())) > 1:
        raise InputError(f"the processes see different {what}; put FOLDER on storage they share")
