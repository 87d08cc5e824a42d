"""Several recommenders as one, against their scores combined by hand."""

import dataclasses
import json

import numpy as np
import pytest

from tests.test_recommend import (  # noqa: F401
    NUM_ITEMS,
    USERS,
    folder,
    ragged,
    recommender,
    table,
)
from tiger_jax import artifacts, eval, fuse, fusion, recommend
from tiger_jax.artifacts import InputError
from tiger_jax.baselines import best_items
from tiger_jax.data import content
from tiger_jax.data.sequences import SEQUENCES, Sequences
from tiger_jax.fusion import MODEL, FusedRecommender, Fusion
from tiger_jax.recommender import Recommender
from tiger_jax.serve import Service, make_app


def opinions(histories):
    """Two, which depend on the length of the history alone."""
    tables = np.random.default_rng(1).normal(size=(2, 30, NUM_ITEMS + 1))
    lengths = [len(history) for history in histories]
    return {"one": tables[0, lengths], "other": tables[1, lengths]}


@pytest.fixture(scope="module")
def thoughts():
    """All opinions on all items, by item number; the model's log p from its own search."""
    plain = recommender(num_beams=NUM_ITEMS).recommend(
        USERS, ragged(), NUM_ITEMS, exclude_history=False
    )
    scores_BN = np.zeros((11, NUM_ITEMS + 1))
    np.put_along_axis(scores_BN, plain.item_numbers, plain.scores, axis=1)
    return {MODEL: scores_BN, **opinions(ragged())}


PRIOR = {"one": 1.5, "other": 1.0}


def fused(exponents, weight=0.5, prior_items=4):
    choice = Fusion(PRIOR, weight, prior_items, NUM_ITEMS, exponents)
    return FusedRecommender(recommender(num_beams=NUM_ITEMS), opinions, choice)


def test_candidates_are_the_mixtures_and_know_what_is_thought_of_them(thoughts):
    found = fused({}, 0.6, NUM_ITEMS).candidates(USERS, ragged(), NUM_ITEMS, exclude_history=False)
    prior_BN = np.exp(sum(exponent * thoughts[name] for name, exponent in PRIOR.items()))
    prior_BN[:, 0] = 0
    prior_BN /= prior_BN.sum(axis=1, keepdims=True)
    expected = best_items(0.4 * np.exp(thoughts[MODEL]) + 0.6 * prior_BN, NUM_ITEMS)
    np.testing.assert_array_equal(found.mixed.item_numbers, expected.item_numbers)
    np.testing.assert_allclose(np.exp(found.mixed.scores), expected.scores, rtol=1e-4)
    assert found.names == (MODEL, "one", "other")
    for number, name in enumerate(found.names):
        expected_BM = np.take_along_axis(thoughts[name], expected.item_numbers, axis=1)
        np.testing.assert_allclose(found.opinions_BMK[..., number], expected_BM, atol=5e-3)


@pytest.mark.parametrize("exponents", [{"model": 0.3, "one": 0.7}, {"model": 1.0}, {"other": 2}])
def test_the_final_order_is_that_of_the_product(exponents, thoughts):
    """Over the whole catalogue less the history, with a beam that holds it all."""
    ranked = fused(exponents).recommend(USERS, ragged(), 5)
    scores_BN = sum(weight * thoughts[name] for name, weight in exponents.items())
    for user, history in enumerate(ragged()):
        left = [item for item in range(1, NUM_ITEMS + 1) if item not in history]
        expected = sorted(left, key=lambda item: -scores_BN[user, item])[:5]
        assert [item for item in ranked.item_numbers[user] if item] == expected


@pytest.mark.parametrize("num_beams", [2, 4, 7])
def test_candidates_are_as_many_as_were_chosen_among(num_beams, monkeypatch):
    """Whatever the recommender's own beams, so that lists are those that were measured."""
    asked = []
    candidates = FusedRecommender.candidates

    def spy(self, users, histories, number, exclude_history):
        asked.append(number)
        return candidates(self, users, histories, number, exclude_history)

    monkeypatch.setattr(FusedRecommender, "candidates", spy)
    choice = Fusion(PRIOR, 0.5, 4, 4, {"one": 1.0})
    served = FusedRecommender(recommender(num_beams=num_beams), opinions, choice)
    served.recommend(USERS, ragged(), 3)
    served.recommend(USERS, ragged(), 6)
    assert asked == [4, 6]


def test_a_prior_leaves_something_to_the_model():
    with pytest.raises(InputError, match=r"prior_weight is 1\.0; give 0 or more, less than 1"):
        Fusion(PRIOR, 1.0, 4, 4, {})


def test_a_fusion_is_asked_as_its_recommender_is():
    """Opinions have rows of known items alone, and know it less politely."""
    assert fused({"one": 1.0}).recommend(None, [], 3).item_numbers.shape == (0, 3)
    for histories, num_results, message in (
        ([[NUM_ITEMS + 1]], 3, f"items are 1 to {NUM_ITEMS}"),
        ([[1]], 0, "num_results is 0"),
    ):
        with pytest.raises(InputError, match=message):
            fused({"one": 1.0}).recommend(None, histories, num_results)


@pytest.fixture
def shop(folder):  # noqa: F811
    """The folder with users who go on to the next item number: counts know, the model does not."""
    random = np.random.default_rng(0)
    rows = [(first + np.arange(6)) % NUM_ITEMS + 1 for first in random.integers(0, NUM_ITEMS, 40)]
    save_sequences(folder, rows)
    embeddings_NE = random.normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    header = Sequences.load(folder / SEQUENCES).header
    header = {name: header[name] for name in ("items_checksum", "metadata_checksum")}
    content.save_embeddings(
        folder, embeddings_NE, header | {"encoder": "tfidf", "text_fields": ["title"]}
    )
    facts = {"scheme": "random", "encoder": "tfidf", "text_fields": ["title"]}
    named = dataclasses.replace(table(), header={**table().header, **facts})
    named.save(folder / "ids" / "random" / "semantic_ids.npz")
    settings = folder / "runs" / "tiger" / "run.json"
    saved = json.loads(settings.read_text()) | {"seed": 0, "batch_size": 8}
    artifacts.save_json(settings, saved)
    return folder


def save_sequences(folder, rows):  # noqa: F811
    old = Sequences.load(folder / SEQUENCES)
    Sequences(
        tuple(f"user {number}" for number in range(len(rows))),
        old.item_ids,
        np.concatenate(rows).astype(np.int32),
        np.arange(0, 6 * len(rows) + 1, 6),
        {**old.header, "dataset": "toy"},
    ).save(folder / SEQUENCES)


SIZES = {"num_beams": NUM_ITEMS, "batch_size": 8}


def test_what_is_chosen_on_validation_is_what_eval_measures(shop, capsys):
    fuse.main(["fuse", f"--folder={shop}", "--run=tiger", "--num_beams=15", "--batch_size=8"])
    assert "validation, 40 users" in capsys.readouterr().out
    saved = json.loads((shop / "runs/tiger/fusions/counts.json").read_text())
    result = eval.evaluate(str(shop), "tiger", "validation", fusion="counts", **SIZES)
    assert result["ndcg@10"] == pytest.approx(saved["scores"]["fusion"]["ndcg@10"])
    assert "with_history_items" not in result
    printed = capsys.readouterr().out
    assert "tiger with counts, history removed" in printed
    assert "history kept" not in printed
    assert (shop / "runs/tiger/eval/validation_fusion_counts/eval.json").is_file()
    # What follows is known to the counts, and the model's noise does not drown it.
    assert saved["scores"]["fusion"]["recall@5"]["value"] > 0.9

    # Other test items, the last of each user: the same choice.
    rows = Sequences.load(shop / SEQUENCES).items.reshape(-1, 6).copy()
    rows[:, -1] = rows[::-1, 0]
    save_sequences(shop, list(rows))
    with pytest.raises(InputError, match=r"chosen for sequences .* choose again"):
        eval.evaluate(str(shop), "tiger", fusion="counts", **SIZES)
    again = fuse.choose(str(shop), "tiger", **SIZES)
    for name in ("prior", "prior_weight", "exponents", "scores"):
        assert again[name] == saved[name], name


def test_the_weight_of_the_prior_is_the_best_of_those_tried(shop, monkeypatch):
    """Against a choice with each alone; few candidates, so that it matters which."""
    few = {**SIZES, "num_beams": 3, "prior_items": 2}
    alone = {}
    for weight in (0.95, 0.2, 0.6):
        monkeypatch.setattr(fuse, "_PRIOR_WEIGHTS", (weight,))
        alone[weight] = fuse.choose(str(shop), "tiger", **few)
    monkeypatch.setattr(fuse, "_PRIOR_WEIGHTS", tuple(alone))
    found = fuse.choose(str(shop), "tiger", **few)
    ndcg = {weight: each["scores"]["fusion"]["ndcg@10"]["value"] for weight, each in alone.items()}
    assert found["ndcg@10_by_prior_weight"] == pytest.approx(ndcg)
    best = max(ndcg, key=ndcg.get)
    for name in ("prior_weight", "exponents", "scores", "candidate_recall"):
        assert found[name] == alone[best][name], name


def test_sasrec_is_one_more_opinion(shop, monkeypatch):
    class Stub:
        @staticmethod
        def load(*place_and_sequences):
            assert place_and_sequences[1] == "other"
            return Stub()

        def scores(self, histories):
            return np.full((len(histories), NUM_ITEMS + 1), -np.inf)

    monkeypatch.setattr(fusion, "SasRec", Stub)
    artifacts.save_json(shop / "runs/other/run.json", {"model": "sasrec", "network": {}})
    sequences = Sequences.load(shop / SEQUENCES)
    alone = fusion.load_opinions(shop, sequences)([[1, 2]])
    found = fusion.load_opinions(shop, sequences, "other")([[1, 2]])
    assert set(found) == {*alone, "sasrec"}
    assert found["sasrec"][0].tolist() == [0.0] + [-np.inf] * NUM_ITEMS


def test_nothing_is_measured_on_items_that_a_run_may_have_learnt(shop):
    """A user's items in another order, as the day's ties may fall: the last is another one."""
    sequences = Sequences.load(shop / SEQUENCES)
    path = shop / "runs/tiger/run.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"interactions": sequences.interactions_checksum()}))
    fuse.choose(str(shop), "tiger", **SIZES)
    save_sequences(shop, [row[::-1] for row in sequences.items.reshape(-1, 6)])
    with pytest.raises(InputError, match="tiger: trained on other interactions than the folder"):
        eval.evaluate(str(shop), "tiger", **SIZES)
    with pytest.raises(InputError, match="tiger: trained on other interactions than the folder"):
        fuse.choose(str(shop), "tiger", **SIZES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "../x"}, "name='../x': give a name"),
        ({"num_users": -5}, "num_users is -5"),
        ({"prior_items": 0}, "prior_items is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message, shop):
    with pytest.raises(InputError, match=message):
        fuse.choose(str(shop), "tiger", **SIZES, **arguments)


def test_a_fusion_that_was_not_chosen_is_refused(shop):
    with pytest.raises(InputError, match=r"counts.json.* python -m tiger_jax.fuse"):
        eval.evaluate(str(shop), "tiger", fusion="counts", **SIZES)
    artifacts.save_json(shop / "runs/tiger/fusions/counts.json", {"prior": {}})
    with pytest.raises(InputError, match=r"counts.json"):
        eval.evaluate(str(shop), "tiger", fusion="counts", **SIZES)


def test_a_fusion_of_another_training_with_the_same_best_step_is_refused(shop):
    fuse.choose(str(shop), "tiger", **SIZES)
    checkpoint = next((shop / "runs/tiger/checkpoints").glob("checkpoint_*"))
    path = checkpoint / "checksums.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(InputError, match=r"chosen for checkpoint .* choose again"):
        eval.evaluate(str(shop), "tiger", fusion="counts", **SIZES)


def test_a_fusion_recommends_on_the_command_line(shop, capsys):
    sequences = Sequences.load(shop / SEQUENCES)
    fuse.choose(str(shop), "tiger", **SIZES)
    ours = Recommender.load(shop, "tiger", sequences=sequences, **SIZES)
    counts = fusion.load(shop, "tiger", "counts", ours, sequences)
    expected = counts.recommend(None, [np.int32([3, 2])], 5)
    asked = [f"--folder={shop}", "--run=tiger", "--history=B3,B2", "--num_results=5", "--json"]
    capsys.readouterr()
    recommend.main(["recommend", *asked, "--fusion=counts"])
    *printed, result = capsys.readouterr().out.splitlines()
    assert "recommended, best first:" in printed
    found = json.loads(result)["results"]
    assert [row["item_id"] for row in found] == [
        sequences.item_ids[item] for item in expected.item_numbers[0]
    ]


def test_a_fusion_is_served_as_it_recommends(shop):
    """In raw ids, by the service; a table that grows is not the one that it was chosen for."""
    testclient = pytest.importorskip("fastapi.testclient", reason="wants the extra serve")
    sequences = Sequences.load(shop / SEQUENCES)
    fuse.choose(str(shop), "tiger", **SIZES)
    service = Service(str(shop), "tiger", fusion="counts", **SIZES)
    ours = Recommender.load(shop, "tiger", sequences=sequences, **SIZES)
    counts = fusion.load(shop, "tiger", "counts", ours, sequences)
    expected = counts.recommend(None, [np.int32([3, 2])], 5)
    with testclient.TestClient(make_app(service, NUM_ITEMS, 8, 0.0, 5_000, 50)) as client:
        answer = client.post(
            "/recommend", json={"history": ["B3", "?", "B2"], "num_results": 5}
        ).json()
        assert answer["unknown"] == ["?"]
        assert answer["num_items"] == NUM_ITEMS
        found = [item["item_id"] for item in answer["items"]]
        assert found == [sequences.item_ids[item] for item in expected.item_numbers[0]]
        for field in ({"temperature": 1.0}, {"filter": "few"}):
            refused = client.post("/recommend", json={"history": [], **field})
            assert refused.status_code == 422
            assert "a fusion has neither filters nor draws" in refused.json()["error"]
        # Items have joined, say: their opinions were not weighed.
        path = fusion.path_of(shop, "tiger", "counts")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"table": "smaller"}))
        refused = client.post("/reload")
        assert refused.status_code == 409
        assert "chosen for table smaller" in refused.json()["error"]
        assert client.get("/health").json()["table"] == ours.table.checksum()
