"""What T5X needs of a machine and of a process; imports none of it.

As a command it says what is missing (docs/t5x.md), and ends with 2 if anything is:

    python -m tiger_jax.t5x_environment
"""

import importlib.util
import os
import sys

from tiger_jax.artifacts import InputError

_CLONE = "git clone https://github.com/{} and put the checkout's path on PYTHONPATH"
_EXTRA = "pip install -e .[t5x]"
# Import name -> what to do if it is missing. None of the first three is on a package index as T5X
# needs it.
_REMEDIES = {
    "t5x": _CLONE.format("google-research/t5x"),
    "airio": _CLONE.format("google/airio"),
    "jestimator": _CLONE.format("google-research/jestimator"),
    **dict.fromkeys(
        ("seqio", "tensorflow", "tensorflow_datasets", "tensorboard", "clu", "fiddle", "grain"),
        _EXTRA,
    ),
    **dict.fromkeys(("cached_property", "chex", "jaxtyping"), _EXTRA),
    **dict.fromkeys(("tiger_jax", "tasks"), "pip install --no-deps -e ."),
}


def missing() -> dict[str, str]:
    """Packages that T5X training needs and that are not there: name -> remedy."""
    return {
        name: remedy for name, remedy in _REMEDIES.items() if importlib.util.find_spec(name) is None
    }


def prepare_process() -> None:
    """Makes T5X's scripts fit: our `tasks` can be imported, and bad input is one line.

    `python t5x/train.py` puts T5X's own folder first on the path, where a tasks.py lies.
    """
    sys.path[:] = [
        folder
        for folder in sys.path
        if not os.path.exists(os.path.join(folder, "gin_utils.py"))
        or not os.path.exists(os.path.join(folder, "tasks.py"))
    ]
    sys.excepthook = _one_line


def _one_line(kind: type[BaseException], error: BaseException, traceback) -> None:
    """Faults of the input end the process with 2 and one line; all else as Python has it."""
    if not isinstance(error, InputError):
        sys.__excepthook__(kind, error, traceback)
        return
    # On lines behind the message gin says which reference it was resolving.
    sys.stderr.write(f"error: {str(error).splitlines()[0]}\n")
    sys.stderr.flush()
    # Not sys.exit: threads of TensorFlow may hold the process.
    os._exit(2)


def main() -> None:
    """Prints what is missing."""
    gaps = missing()
    for name, remedy in gaps.items():
        print(f"{name} is missing: {remedy}")
    if gaps:
        sys.exit(2)
    print("everything that T5X needs is here")


if __name__ == "__main__":
    main()
