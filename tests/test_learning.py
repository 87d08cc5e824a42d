"""What `train` makes of its settings, and that what it saves recommends what was learnt."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from test_sasrec import make_chains, save_sequences
from test_train import NETWORK, folder, loaded, settings  # noqa: F401

from tiger_jax import batching, checkpoints, teach, train
from tiger_jax.data import content, examples
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.data.soft_targets import SoftTargets
from tiger_jax.model.model import TigerModel
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.train_state import TrainState

# A causal encoder over whole sequences, as the CPU cards have it; else as the paper has it.
WAYS = {
    "prefixes": {"train_on": "prefixes", "normalize": "full"},
    "sequences": {
        "train_on": "sequences",
        "normalize": "level",
        "network": dataclasses.replace(NETWORK, causal_encoder=True),
    },
}


def chains(folder, change=lambda items: items):  # noqa: F811
    """A folder of users who go round the same cycle of items, each from another one on."""
    save_sequences(folder, [change(items) for items in make_chains()])
    header = Sequences.load(folder / SEQUENCES).header
    codes = np.random.default_rng(0).permutation(np.stack(np.mgrid[:4, :4, :2], -1).reshape(-1, 3))
    header = {"items_checksum": header["items_checksum"], "encoder": "", "text_fields": []}
    table = SemanticIdTable.from_codes(codes[:12], (8, 8, 8), header, collision_size=16)
    table.save(folder / "ids" / "ids" / "semantic_ids.npz")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_a_cycle_is_learnt_and_recommended_from_disk(way, tmp_path):
    """The next item of nearly everyone, with nearly all of the probability."""
    given = settings(
        chains(tmp_path), "run", **WAYS[way], num_steps=600, optimizer=optax.adam(0.01)
    )
    given |= {"eval_period": 600, "steps_per_call": 100, "eval_users": 5, "num_user_tokens": 0}
    # No longer than histories of training, whose places are learnt.
    given |= {"max_history": 3}
    given["network"] = dataclasses.replace(given["network"], dropout_rate=0.0)
    train.train(**given)
    recommender = Recommender.load(tmp_path, "run")
    assert recommender.model.normalize == WAYS[way]["normalize"]
    histories, targets = Sequences.load(tmp_path / SEQUENCES).split("test")
    ranked = recommender.recommend(None, histories, 2, exclude_history=False)
    assert (ranked.item_numbers[:, 0] == targets).mean() > 0.95
    assert np.median(np.exp(ranked.scores[:, 0])) > 0.8


def metrics_and_params(folder):  # noqa: F811
    train.train(**settings(folder, "run", num_steps=4, eval_period=4, eval_users=0))
    path = folder / "runs" / "run"
    params = checkpoints.load_params(
        path / "checkpoints", 4, Recommender.load(folder, "run").params
    )
    return (path / "metrics.jsonl").read_bytes(), params


def test_checkpoints_are_chosen_blind_to_the_test_split(tmp_path):
    """Other last items change nothing at all; other next-to-last items the validation alone."""
    one, params = metrics_and_params(chains(tmp_path / "one"))
    other_test = chains(tmp_path / "test", lambda items: [*items[:-1], items[0]])
    assert metrics_and_params(other_test)[0] == one
    other_validation = chains(tmp_path / "validation", lambda items: [*items[:-2], 12, items[-1]])
    other, same_params = metrics_and_params(other_validation)
    assert other != one
    jax.tree.map(np.testing.assert_array_equal, same_params, params)


@pytest.mark.parametrize("way", WAYS)
def test_a_training_is_its_steps_with_all_its_settings(way, folder):  # noqa: F811
    """Two steps by hand: on prefixes with noise, on sequences with a teacher's imagined users."""
    noise, weight, imagined_users = (1.5, 0.0, 0) if way == "prefixes" else (0.0, 0.6, 30)
    given = settings(folder, f"by_hand_{way}", **WAYS[way], num_steps=2, eval_period=2)
    given |= {"order_noise": noise, "teacher_weight": weight, "imagined_users": imagined_users}
    given |= {"seed": 3, "max_history": 5, "eval_users": 5}
    sequences, table, vocabulary = loaded(folder)
    soft_targets, imagined = None, ()
    if weight:
        teach.teach(str(folder), num_expected=5, imagined_users=imagined_users, max_history=5)
        _, source = content.load_embeddings(folder)
        soft_targets = SoftTargets.load(folder, sequences, source["checksum"])
        imagined = soft_targets.imagined
        assert len(imagined) == 30
    train.train(**given)

    network, optimizer = given["network"], given["optimizer"]
    made = examples.of(sequences, given["train_on"], 5, network.causal_encoder, imagined)
    composition, plan = batching.planned(made, vocabulary, given["batch_size"], 2, 3)
    model = TigerModel(network, vocabulary, given["normalize"])
    step_fn = train.make_step_fn(
        model, optimizer, composition, 3, order_noise=noise, teacher_weight=weight
    )
    state, _ = step_fn(
        TrainState.create(model.init(jax.random.key(3)), optimizer),
        batching.device_data(made, sequences, table, vocabulary, soft_targets),
        plan(0)[:2],
    )
    saved = checkpoints.load_params(
        folder / "runs" / given["run"] / "checkpoints", 2, jax.device_get(state.params)
    )
    for one, other in zip(*map(jax.tree.leaves, (saved, state.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
