"""`evaluate` on a small folder, with a recommender whose lists are known beforehand."""

import dataclasses
import json

import numpy as np
import pytest

from tiger_jax import artifacts, eval, metrics
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.metrics import RankedItems
from tiger_jax.semantic_ids.table import SemanticIdTable

NUM_ITEMS = 60
NUM_USERS = 37
TRAINING = {"seed": 1, "batch_size": 2, "normalize": "full", "network": {}, "table": "0"}
ITEMS = [
    {"item_id": f"item {number}", "title": f"<script>item {number}</script>"}
    for number in range(1, NUM_ITEMS + 1)
]
METADATA_CHECKSUM = artifacts.checksum("".join(json.dumps(row) + "\n" for row in ITEMS))
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


@dataclasses.dataclass
class StubRecommender:
    """Answers each user, an item number in words, with that item, its history, then the rest."""

    table: SemanticIdTable
    invalid_slots: tuple[int, ...] = ()
    step: int = 7
    calls: list = dataclasses.field(default_factory=list)

    def recommend(self, users, histories, num_results, exclude_history):
        assert not exclude_history
        self.calls.append((users, histories, num_results))
        lists = []
        for user, history in zip(users, histories, strict=True):
            rest = np.setdiff1d(np.arange(1, NUM_ITEMS + 1), [*history, int(user)])
            lists.append([int(user), *history, *rest][:num_results])
        items = np.array(lists, np.int32)
        items[:, [slot for slot in self.invalid_slots if slot < num_results]] = 0
        return RankedItems(items, np.zeros(items.shape, np.float32))


def lists_of(folder, name):
    """The lists that an evaluation saved under `name`."""
    path = folder / "runs/stub/eval" / name / "ranked_items.npz"
    header, lists = artifacts.load_arrays(path, "ranked_items", "eval")
    assert name.startswith(header["split"])
    return lists


def make_sequences(test_items=None):
    """Users' raw ids are the numbers of their test items, unless those are given."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 30, NUM_USERS)
    rows = [generator.choice(NUM_ITEMS, length, replace=False) + 1 for length in lengths]
    user_ids = tuple(str(row[-1]) for row in rows)
    if test_items is not None:
        rows = [np.append(row[:-1], item) for row, item in zip(rows, test_items, strict=True)]
    return Sequences(
        user_ids=user_ids,
        item_ids=("", *(f"item {number}" for number in range(1, NUM_ITEMS + 1))),
        items=np.concatenate(rows).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        header={"dataset": "toy", "items_checksum": "0", "metadata_checksum": METADATA_CHECKSUM},
    )


@pytest.fixture
def folder(tmp_path):
    """A prepared folder."""
    make_sequences().save(tmp_path / SEQUENCES)
    assert content.save_items(tmp_path, ITEMS) == METADATA_CHECKSUM
    embeddings_NE = np.random.default_rng(1).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    header = {"encoder": "tfidf", "text_fields": ["title"], "items_checksum": "0"}
    header["metadata_checksum"] = METADATA_CHECKSUM
    content.save_embeddings(tmp_path, embeddings_NE, header)
    artifacts.save_json(tmp_path / "runs" / "stub" / "run.json", TRAINING)
    checkpoint = tmp_path / "runs" / "stub" / "checkpoints" / "checkpoint_9"
    artifacts.save_json(checkpoint / "metadata.json", {"best": {"step": 7}, "seconds": 60.0})
    return tmp_path


@pytest.fixture
def recommender(monkeypatch):
    """Stands in for the trained one."""
    codes_NL = np.random.default_rng(2).integers(0, 3, (NUM_ITEMS, 2))
    header = {"scheme": "rqvae", "encoder": "tfidf", "text_fields": ["title", "brand"]}
    stub = StubRecommender(SemanticIdTable.from_codes(codes_NL, (3, 3), header))

    class Loader:
        @staticmethod
        def load(folder, run, num_beams, search, batch_size):
            return stub

    monkeypatch.setattr(eval, "Recommender", Loader)
    return stub


def test_a_recommender_that_puts_the_target_first_scores_one(folder, recommender):
    result = eval.evaluate(str(folder), "stub")
    for name in METRICS:
        assert result[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert result["num_users"] == NUM_USERS
    assert (result["split"], result["search"], result["exclude_history"]) == (
        "test",
        "constrained",
        True,
    )
    assert result["invalid_id_rate"] == 0.0
    assert (result["encoder"], result["text_fields"]) == ("tfidf", ["title", "brand"])
    assert (result["ids"], result["step"]) == ("rqvae", 7)
    assert result["users_per_s"] == pytest.approx(NUM_USERS / result["seconds"])


def test_removing_history_items_lifts_what_stands_behind_them(folder, recommender, monkeypatch):
    # The first slot is lost to an invalid ID, and the target follows the history.
    def recommend(users, histories, num_results, exclude_history):
        lists = [
            [0, *history, int(user), *[0] * NUM_ITEMS][:num_results]
            for user, history in zip(users, histories, strict=True)
        ]
        return RankedItems(np.array(lists, np.int32), np.zeros((len(lists), num_results)))

    monkeypatch.setattr(recommender, "recommend", recommend)
    result = eval.evaluate(str(folder), "stub", num_beams=NUM_ITEMS)
    lengths = np.diff(make_sequences().offsets) - 1
    assert result["without_history_items"]["recall@5"]["value"] == 1.0
    assert result["without_history_items"]["ndcg@5"]["value"] == pytest.approx(1 / np.log2(3))
    assert result["with_history_items"]["recall@10"]["value"] == np.mean(lengths + 2 <= 10)
    assert result["with_history_items"]["ndcg@10"]["value"] == pytest.approx(
        np.mean(np.where(lengths + 2 <= 10, 1 / np.log2(lengths + 3), 0))
    )
    kept = eval.evaluate(str(folder), "stub", num_beams=NUM_ITEMS, exclude_history=False)
    assert {name: kept[name] for name in METRICS} == result["with_history_items"]


def test_invalid_ids_are_counted_in_the_first_ten(folder, recommender):
    recommender.invalid_slots = (1, 5, 11)
    result = eval.evaluate(str(folder), "stub", search="free")
    assert result["invalid_id_rate"] == pytest.approx(0.2)


def test_no_test_target_reaches_a_recommender_or_a_baseline(folder, recommender, monkeypatch):
    """Other test targets change the scores and nothing else."""
    scored = []
    score = metrics.score

    def record(ranked, targets, seed):
        scored[-1].append(ranked)
        return score(ranked, targets, seed)

    monkeypatch.setattr(metrics, "score", record)
    sequences = make_sequences()
    histories, targets = sequences.split("test")
    generator = np.random.default_rng(3)
    planted = [
        generator.choice(np.setdiff1d(np.arange(1, NUM_ITEMS + 1), [*history, target]))
        for history, target in zip(histories, targets, strict=True)
    ]
    results = []
    for test_items in (None, planted):
        make_sequences(test_items).save(folder / SEQUENCES)
        scored.append([])
        results.append(eval.evaluate(str(folder), "stub"))
    assert results[0]["recall@5"]["value"] == 1.0
    assert results[1]["recall@5"]["value"] < 0.5
    assert results[0]["mixture"] == results[1]["mixture"]
    assert len(scored[0]) == 7  # the run's lists twice, five baselines
    for before, after in zip(*scored, strict=True):
        np.testing.assert_array_equal(before.item_numbers, after.item_numbers)
        np.testing.assert_array_equal(before.scores, after.scores)


@pytest.mark.parametrize("exclude_history", [True, False])
def test_baselines_are_scored_from_training_sequences_alone(folder, recommender, exclude_history):
    result = eval.evaluate(str(folder), "stub", exclude_history=exclude_history)
    sequences = make_sequences()
    histories, targets = sequences.split("test")
    counts = np.bincount(np.concatenate(sequences.training_sequences()), minlength=NUM_ITEMS + 1)
    popular = sorted(range(1, NUM_ITEMS + 1), key=lambda item: (-counts[item], item))
    hits = [
        target in [item for item in popular if not exclude_history or item not in history][:10]
        for history, target in zip(histories, targets, strict=True)
    ]
    assert result["baselines"]["popularity"]["recall@10"]["value"] == pytest.approx(np.mean(hits))
    assert set(result["baselines"]) == {
        "popularity",
        "last_prefix",
        "item_to_item",
        "content_neighbours",
        "counts_with_content",
    }


def test_every_user_is_searched_once_with_room_for_the_history(folder, recommender):
    eval.evaluate(str(folder), "stub", num_beams=20, batch_size=1)
    assert len(recommender.calls) > 1
    searched = [user for users, _, _ in recommender.calls for user in users]
    assert sorted(searched) == sorted(make_sequences().user_ids)
    for _, histories, num_results in recommender.calls:
        assert num_results == min(20, 10 + max(map(len, histories)))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_change_nothing(folder, recommender, batch_size):
    eval.evaluate(str(folder), "stub", num_beams=20, batch_size=batch_size)
    lists = lists_of(folder, "test")
    histories, targets = make_sequences().split("test")
    assert lists["item_numbers"].shape == lists["scores"].shape == (NUM_USERS, 20)
    np.testing.assert_array_equal(lists["user_rows"], np.arange(NUM_USERS))
    np.testing.assert_array_equal(lists["item_numbers"][:, 0], targets)
    np.testing.assert_array_equal(lists["item_numbers"][:, 1], [row[0] for row in histories])


def test_a_sample_of_users_depends_on_the_seed_alone(folder, recommender):
    sampled = []
    for seed in (0, 0, 1):
        assert eval.evaluate(str(folder), "stub", num_users=9, seed=seed)["num_users"] == 9
        sampled.append(lists_of(folder, "test_9_users")["user_rows"].tolist())
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0] == sorted(set(sampled[0]))


def test_the_result_is_saved_and_the_table_shows_it(folder, recommender, capsys):
    result = eval.evaluate(str(folder), "stub")
    assert json.loads((folder / "runs/stub/eval/test/eval.json").read_text()) == result
    _, _, header, *lines, files = capsys.readouterr().out.splitlines()
    assert files == f"wrote {folder}/runs/stub/eval/test: eval.json, ranked_items.npz, report.html"
    rows = {
        "stub, history removed": result["without_history_items"],
        "stub, history kept": result["with_history_items"],
        **{name.replace("_", " "): scores for name, scores in result["baselines"].items()},
    }
    for line, (name, scores) in zip(lines, rows.items(), strict=True):
        assert line.startswith(name)
        for metric in METRICS:
            cell = "{value:.4f} [{low:.4f} {high:.4f}]".format(**scores[metric])
            assert line[header.index(metric) :].startswith(cell)


def test_the_validation_split_scores_the_item_before_the_last(folder, recommender):
    result = eval.evaluate(str(folder), "stub", split="validation")
    histories, targets = make_sequences().split("validation")
    lists = lists_of(folder, "validation")
    first_ten = RankedItems(lists["item_numbers"], lists["scores"]).without(histories)
    hits = (first_ten.item_numbers[:, :10] == targets[:, None]).any(axis=1)
    assert result["recall@10"]["value"] == pytest.approx(hits.mean())


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 9},
        {"batch_size": 0},
        {"num_users": -1},
        {"split": "training"},
        {"seed": -1},
        {"fusion": "counts", "exclude_history": False},
    ],
)
def test_arguments_that_make_no_sense_are_refused(folder, recommender, arguments):
    with pytest.raises(artifacts.InputError):
        eval.evaluate(str(folder), "stub", **arguments)


def test_evaluations_of_one_run_keep_apart(folder, recommender):
    """Neither another split, another search nor a sample overwrites what was there."""
    eval.evaluate(str(folder), "stub")
    results = folder / "runs/stub/eval"
    before = (results / "test/eval.json").read_bytes()
    eval.evaluate(str(folder), "stub", search="free")
    eval.evaluate(str(folder), "stub", split="validation")
    eval.evaluate(str(folder), "stub", num_users=9)
    eval.evaluate(str(folder), "stub", exclude_history=False)
    names = ["test", "test_9_users", "test_free", "test_history_kept", "validation"]
    assert sorted(path.name for path in results.iterdir()) == names
    assert (results / "test/eval.json").read_bytes() == before
    for name in names:
        files = sorted(path.name for path in (results / name).iterdir())
        assert files == ["eval.json", "ranked_items.npz", "report.html"]
