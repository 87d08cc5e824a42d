"""Writes down what counts and content expect at every place of the training sequences.

`python -m tiger_jax.train --teacher_weight=0.5` then learns from it beside the items that came.
"""

import pathlib

import numpy as np

from tiger_jax import artifacts, command_line, log_linear, teacher
from tiger_jax.data import content
from tiger_jax.data.cooccurrence import COOCCURRENCE
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.data.soft_targets import SOFT_TARGETS

_EXAMPLES = """
python -m tiger_jax.teach --folder=work/beauty_minilm
python -m tiger_jax.teach --gin_file=gin/experiment/beauty_cpu.gin
python -m tiger_jax.train --gin_file=gin/experiment/beauty_cpu.gin
"""


def teach(
    folder: str,
    num_expected: int = 50,
    num_users: int = 4096,
    seed: int = 0,
    teacher_weight: float = 1.0,
    imagined_users: int = 0,
    max_history: int = 20,
) -> dict:
    """Writes FOLDER/soft_targets.npz, from the training sequences.

    The exponents of the opinions are those that make the next items of validation users likeliest;
    test items are not read. Imagined users begin with any item and go on with what is expected of
    them; training is on their sequences as well.

    Args:
      folder: the prepared folder.
      num_expected: items to keep of each place, the likeliest ones.
      num_users: size of the random sample of validation users; 0 for all.
      seed: of the sample, and of what imagined users do.
      teacher_weight: what train is going to give a teacher; with 0 there is nothing to do.
      imagined_users: how many there are to be; each has as many items as some real user in
        training, two at least.
      max_history: each has at most one item more.
    """
    artifacts.require_shares(teacher_weight=teacher_weight)
    artifacts.require_at_least(1, num_expected=num_expected, max_history=max_history)
    artifacts.require_at_least(0, num_users=num_users, imagined_users=imagined_users)
    artifacts.require_seed(seed)
    if not teacher_weight:
        print("TEACHER_WEIGHT is 0: this training has no teacher")
        return {"exponents": {}}
    sequences = Sequences.load(pathlib.Path(folder, SEQUENCES))
    training = sequences.training_sequences()
    embeddings_NE, source = content.load_embeddings(folder)
    if source["encoder"] == COOCCURRENCE:
        raise artifacts.InputError(
            f"{folder}: its embeddings tell what each user took next, which a teacher must not "
            "know; prepare it with an encoder of texts, or train with --teacher_weight=0"
        )
    product = log_linear.of_counts_and_content(sequences, embeddings_NE, num_users, seed)
    opinions, exponents = product.opinions, product.exponents
    found = teacher.teach(training, embeddings_NE, exponents, num_expected)
    if imagined_users:
        num_items = sequences.num_items
        # One generator for both, or users who begin alike would be of like lengths.
        random = np.random.default_rng(seed)
        lengths_U = random.choice(list(map(len, training)), imagined_users)
        lengths_U = lengths_U.clip(2, max_history + 1).clip(max=num_items)
        imagined = teacher.imagine(opinions, exponents, num_items, lengths_U, num_expected, random)
        found = found.followed_by(imagined)
    header = {
        "sequences": sequences.checksum(),
        "content": source["checksum"],
        "num_users": min(num_users or sequences.num_users, sequences.num_users),
        "seed": seed,
        **artifacts.provenance(),
    }
    found.save(folder, header)
    powers = ", ".join(f"{name} {value:.2f}" for name, value in exponents.items())
    beside = f"; {imagined_users:,} imagined users" if imagined_users else ""
    print(f"wrote {pathlib.Path(folder, SOFT_TARGETS)}; exponents: {powers}{beside}")
    return {"exponents": exponents}


def main(argv=None):
    """Runs the verb from the command line."""
    command_line.run(teach, argv, examples=_EXAMPLES)


if __name__ == "__main__":
    from tiger_jax.teach import main

    main()
