"""Who may import whom (docs/architecture.md), read from the imports themselves."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Module or folder -> its floor. A module may import modules of lower floors and of its own folder.
FLOORS = {
    "vocabulary": 0,
    "metrics": 0,
    "artifacts": 0,
    "paper": 0,
    "command_line": 1,
    "data": 1,
    "checkpoints": 1,
    "run_log": 1,
    "products": 1,
    "semantic_ids": 2,
    "model": 3,
    "train_state": 4,
    "guard_rails": 4,
    "mesh": 5,
    "batching": 4,
    "report": 4,
    "requests": 4,
    "saved_run": 4,
    "recommender": 5,
    "frequency": 1,
    "baselines": 4,
    "sasrec": 5,
    "new_items": 5,
    "prepare": 6,
    "make_ids": 6,
    "request_queue": 6,
    "export": 6,
    "recommend": 7,
    "serve": 7,
    "cold_start": 7,
    "diversity": 7,
    "log_linear": 5,
    "fusion": 6,
    "teacher": 6,
    "teach": 7,
    "fuse": 7,
    "eval": 7,
    "runs": 6,
    # Through the recommender, as eval does.
    "validation": 6,
    "train": 7,
    "train_sasrec": 7,
    # Beside the path: what T5X needs. The adapter is the only module that imports it.
    "t5x_environment": 1,
    "t5x_adapter": 4,
}
# Finer than the numbers: what may be imported from a lower floor at all.
ALLOWED = {
    "command_line": {"artifacts"},
    "semantic_ids": {"artifacts", "metrics", "products", "vocabulary"},
    "model": {"artifacts", "metrics", "products", "vocabulary", "semantic_ids"},
    "t5x_environment": {"artifacts"},
    "t5x_adapter": {
        "artifacts",
        "metrics",
        "vocabulary",
        "t5x_environment",
        "semantic_ids",
        "model",
    },
    "report": {"artifacts", "metrics", "paper", "data", "semantic_ids"},
}
# Outside packages at the top of a module; inside a function the packages of LAZY are allowed too.
SCIENCE = {"jax", "flax", "optax", "numpy"}
OUTSIDE = {
    "vocabulary": {"numpy"},
    "metrics": {"numpy"},
    "artifacts": {"numpy"},
    "paper": set(),
    "command_line": {"absl"},
    "data": {"numpy"},
    "checkpoints": {"numpy", "jax", "flax", "orbax"},
    "semantic_ids": SCIENCE | {"scipy", "tqdm"},
    "model": {"jax", "flax", "numpy"},
    "report": {"numpy"},
    "frequency": {"numpy"},
    "run_log": set(),
    "products": {"jax"},
    "baselines": SCIENCE | {"scipy"},
    "teacher": SCIENCE | {"scipy", "tqdm"},
    "t5x_environment": set(),
    "t5x_adapter": {"jax", "seqio", "t5x", "tensorflow"},
}
# Builders of datasets; the path from prepare to eval does not import them.
TFDS_BUILDERS = {
    "amazon_reviews": {"numpy", "tensorflow_datasets"},
    "large_reviews": {"apache_beam", "tensorflow_datasets"},
}
OUTSIDE_VERBS = SCIENCE | {"tqdm"}
LAZY = {
    "command_line": {"gin"},
    "data": {"pyarrow", "scipy", "sklearn", "sentence_transformers"},
    "report": {"matplotlib"},
    "run_log": {"tensorboard"},
    "export": {"tensorflow"},
    "serve": {"fastapi", "prometheus_client", "starlette", "uvicorn"},
}


def modules():
    for path in sorted((ROOT / "tiger_jax").rglob("*.py")):
        parts = path.relative_to(ROOT / "tiger_jax").with_suffix("").parts
        if parts[-1] != "__init__":
            yield path, parts


def imports(path):
    """(dotted name, inside a function) of everything imported."""
    tree = ast.parse(path.read_text())
    lazy = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node in lazy
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                yield f"{node.module}.{name.name}", node in lazy


@pytest.mark.parametrize(("path", "parts"), list(modules()), ids=lambda value: str(value))
def test_module_keeps_to_its_floor(path, parts):
    room = parts[0]
    for name, lazy in imports(path):
        package, *rest = name.split(".")
        if package == "tiger_jax":
            target = rest[0]
            if target in (room, "main"):
                continue
            assert FLOORS[target] < FLOORS[room], f"{room} imports {target} of a higher floor"
            assert target in ALLOWED.get(room, {target}), f"{room} may not import {target}"
        elif package not in sys.stdlib_module_names:
            if parts[-1] in TFDS_BUILDERS:
                assert package in TFDS_BUILDERS[parts[-1]], f"{path.name} imports {package}"
                continue
            allowed = OUTSIDE.get(room, OUTSIDE_VERBS) | (LAZY.get(room, set()) if lazy else set())
            assert package in allowed, f"{room} imports {package}"


def test_tasks_know_the_lower_floors_alone():
    for path in sorted((ROOT / "tasks").glob("*.py")):
        for name, _ in imports(path):
            package, *rest = name.split(".")
            if package == "tiger_jax":
                assert FLOORS[rest[0]] <= 2, f"{path.name} imports {name}"
            elif package not in sys.stdlib_module_names:
                assert package in {"flax", "numpy", "seqio", "tensorflow"}, name


def test_gin_folder_is_no_package():
    """With an __init__.py, `import gin` would find it instead of the library."""
    assert not list((ROOT / "gin").rglob("__init__.py"))


def test_no_file_is_too_long_to_read():
    for path, _ in modules():
        assert len(path.read_text().splitlines()) <= 400, path
