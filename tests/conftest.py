"""Strict settings for every test, and the fixtures that several files share."""

import importlib.metadata
import os
import pathlib

# Most of the tests' time is compilation, for programs that run once. Without its fusion emitters
# XLA takes a third of the time; it ends where it does not know a flag, so that one is given only
# where that was seen.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10.")
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


# Two workers take a file each, in this order; long ones at the end would leave one of them idle.
_LONGEST_FIRST = ("kill", "train", "pages", "tour", "reproduce", "mesh", "path", "launch")


def pytest_collection_modifyitems(items):
    """The longest files come first."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each holds mappings of memory, of which Linux gives a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    """A random key."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def amazon_data():
    """Folder of the Amazon 2014 data: `TIGER_DATA`, else `../shared/data` beside the checkout."""
    root = pathlib.Path(__file__).resolve().parent.parent
    data = pathlib.Path(os.environ.get("TIGER_DATA", root.parent / "shared" / "data"))
    folder = data / "amazon2014"
    if not folder.is_dir():
        pytest.skip(f"the Amazon 2014 data is not at {folder}; set TIGER_DATA to its parent folder")
    return folder
