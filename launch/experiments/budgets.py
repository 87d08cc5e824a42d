"""The sizes at which all experiments run, and the cards that make them."""

import dataclasses
from collections.abc import Mapping, Sequence

# What the paper does, whatever a budget's card does.
NO_TEACHER = "--teacher_weight=0.0"


@dataclasses.dataclass(frozen=True)
class Budget:
    """A size at which all experiments run.

    Attributes:
      name: toy, cpu or paper.
      what: what that means, in words.
      card: gin card of the whole path, by dataset.
      folder: prepared folder, by dataset.
      content_ids: card of gin/ids for an RQ-VAE of the items' content alone, as in the paper.
      ids_flags: {card of gin/ids: flags of make_ids}.
      untaught: flags of train for a training without a teacher, as the paper's are.
      brief: flags of train where variants are compared with each other, many of them in a table.
      small: flags of `prepare`, by dataset; empty where the data are real.
    """

    name: str
    what: str
    card: str
    folder: str
    content_ids: str
    ids_flags: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    untaught: Sequence[str] = (NO_TEACHER,)
    brief: Sequence[str] = ()
    small: Sequence[str] = ()

    @property
    def is_toy(self) -> bool:
        """Whether the data are generated."""
        return bool(self.small)


# 120 items need no 256 codes a level, and may leave most of them out. All IDs have four parts, so
# that what is compiled for one serves the others.
_SMALL_RQVAE = ("--gin.NUM_EPOCHS=5", "--gin.schemes.rqvae.hidden_sizes=(16,)")
_FEW_CODES = {
    "lsh": ("--gin.HYPERPLANES=3", "--gin.schemes.lsh.num_levels=3"),
    "random": ("--gin.CODEBOOK_SIZES=(8,8,8,8)",),
    "rqvae_6x64": ("--gin.CODEBOOK_SIZES=(4,4,4)", *_SMALL_RQVAE),
    "figure4": ("--gin.CODEBOOK_SIZES=(4,4,8)", *_SMALL_RQVAE),
}

# The one place that says which cards the experiments run.
BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            "paper",
            "as near to the paper's recipe as the data allow (docs/reproduce.md)",
            "gin/experiment/{dataset}_paper_guarded.gin",
            "work/{dataset}_minilm",
            "rqvae",
        ),
        Budget(
            "cpu",
            "real data, one CPU core: 24,000 steps with counts and content as a teacher, about an "
            "hour (docs/training.md); 12,000 steps for models without a teacher (P5, and TIGER "
            "with IDs like the paper's); 3,000 steps without one for each variant where variants "
            "are compared",
            "gin/experiment/{dataset}_cpu.gin",
            "work/{dataset}_minilm",
            "rqvae_adamw",
            # With more, a model of the interactions alone only learns them by heart.
            untaught=(NO_TEACHER, "--gin.TRAIN_STEPS=12000", "--gin.EVAL_PERIOD=3000"),
            brief=(
                "--gin.TRAIN_STEPS=3000",
                "--gin.EVAL_PERIOD=1500",
                # What the card has in place of noise.
                NO_TEACHER,
                "--order_noise=1.0",
            ),
        ),
        Budget(
            "toy",
            "a generated catalogue of 120 items in place of the dataset, a few training steps",
            "gin/experiment/reproduce_toy.gin",
            "work/reproduce_toy/{dataset}",
            "rqvae_adamw",
            ids_flags=_FEW_CODES,
            small=("--source=synthetic", "--synthetic_users=200", "--synthetic_items=120"),
        ),
    )
}
