"""Histories to ranked items: batches, lengths, filters, invalid IDs, and the run folder."""

import dataclasses
import functools
import itertools
import json

import jax
import numpy as np
import pytest

from tiger_jax import artifacts, checkpoints
from tiger_jax import recommend as recommend_module
from tiger_jax import recommender as recommender_module
from tiger_jax import requests as requests_module
from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences
from tiger_jax.metrics import RankedItems
from tiger_jax.model import beam
from tiger_jax.model.model import TigerModel
from tiger_jax.model.network import NetworkConfig
from tiger_jax.recommender import Recommender
from tiger_jax.semantic_ids.invalid_ids import match_prefixes, without_invalid_ids
from tiger_jax.semantic_ids.table import SemanticIdTable
from tiger_jax.semantic_ids.trie import Trie
from tiger_jax.vocabulary import Vocabulary

SIZES = (3, 4, 2)
NUM_ITEMS = 15
MAX_HISTORY = 2


@functools.cache
def table():
    everything = np.array(list(itertools.product(*map(range, SIZES))))
    codes = np.random.default_rng(3).permutation(everything)[:NUM_ITEMS]
    return SemanticIdTable.from_distinct_codes(codes, SIZES, {"items_checksum": "x"})


@functools.cache
def model(normalize="full"):
    config = NetworkConfig(
        vocab_size=16,
        emb_dim=8,
        num_heads=2,
        head_dim=4,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.1,
        logits_via_embedding=True,
    )
    return TigerModel(config, Vocabulary(SIZES, num_user_tokens=5), normalize)


@functools.cache
def params():
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(model().init, jax.random.key(0))
    return jax.tree.map(lambda x: random.normal(0.0, 0.7, x.shape).astype(np.float32), shapes)


def recommender(normalize="full", **options):
    defaults = {"num_beams": 4, "batch_size": 4}
    return Recommender(model(normalize), params(), table(), MAX_HISTORY, **(defaults | options))


@functools.cache
def ragged(count=11):
    """Histories of 0 to 10 items, some longer than the model sees."""
    random = np.random.default_rng(5)
    return [random.integers(1, NUM_ITEMS + 1, row % 11) for row in range(count)]


USERS = [f"user {row}" for row in range(11)]


def check_equal(one, other):
    np.testing.assert_array_equal(one.item_numbers, other.item_numbers)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_encoder_reads_user_then_latest_items_then_padding():
    tokens_NI = model().vocabulary.token_table(table().semantic_ids_NI)
    user_token = model().vocabulary.user_tokens(["ann"])[0]
    found = recommender().encoder_tokens(["ann", "ann"], [[5], [1, 2, 3, 4]])
    assert found.tolist() == [
        [user_token, *tokens_NI[5], 0, 0, 0],
        [user_token, *tokens_NI[3], *tokens_NI[4]],
    ]
    without_user = recommender().encoder_tokens(None, [[5], [1, 2, 3, 4]])
    np.testing.assert_array_equal(without_user, found[:, 1:])


def test_batches_and_lengths_change_nothing():
    """All in one search of the full length, against groups and one by one."""
    whole = recommender()
    search = jax.jit(beam.constrained_search, static_argnums=(0, 4))
    tokens_BS = whole.encoder_tokens(USERS, ragged())
    rows_BM, scores_BM = search(model(), params(), whole.trie, tokens_BS, 4)
    expected = RankedItems(np.asarray(whole.trie.item_numbers(rows_BM)), np.asarray(scores_BM))

    check_equal(whole.recommend(USERS, ragged(), 4, exclude_history=False), expected)
    check_equal(whole.recommend(USERS, ragged(), 3, exclude_history=False), expected.top(3))
    unknown = whole.recommend([*USERS[:10], None], ragged(), 4, exclude_history=False)
    nobody = whole.recommend(None, ragged()[10:], 4, exclude_history=False)
    check_equal(RankedItems(unknown.item_numbers[10:], unknown.scores[10:]), nobody)
    for row in (0, 1, 10):
        alone = whole.recommend([USERS[row]], [ragged()[row]], 4, exclude_history=False)
        check_equal(alone, RankedItems(expected.item_numbers[[row]], expected.scores[[row]]))


def test_more_results_than_items_leaves_slots_unused():
    ranked = recommender().recommend(None, [[1, 2], []], NUM_ITEMS + 3, exclude_history=False)
    for items in ranked.item_numbers:
        assert sorted(items[:NUM_ITEMS]) == list(range(1, NUM_ITEMS + 1))
    assert (ranked.item_numbers[:, NUM_ITEMS:] == 0).all()
    assert (ranked.scores[:, NUM_ITEMS:] == -np.inf).all()
    assert np.isfinite(ranked.scores[:, :NUM_ITEMS]).all()


def test_excluded_history_never_comes_back_and_lists_stay_full():
    """Of whole histories, longer than what the model sees and than the beam."""
    wide = recommender(num_beams=NUM_ITEMS).recommend(
        USERS, ragged(), NUM_ITEMS, exclude_history=False
    )
    wide_excluded = recommender(num_beams=NUM_ITEMS).recommend(USERS, ragged(), NUM_ITEMS, True)
    narrow = recommender().recommend(USERS, ragged(), 4)
    for row, history in enumerate(ragged()):
        expected = [item for item in wide.item_numbers[row] if item not in history]
        assert [item for item in wide_excluded.item_numbers[row] if item] == expected
        assert not set(narrow.item_numbers[row]) & set(history)
        assert (narrow.item_numbers[row] > 0).sum() == min(4, len(expected))


def test_no_histories_give_no_lists():
    assert recommender().recommend(None, [], 3).item_numbers.shape == (0, 3)


def free_reference(normalize, num_beams):
    """Items and scores of the free beam, by looking each of its IDs up in a dictionary."""
    tokens_BS = recommender().encoder_tokens(USERS, ragged())
    search = jax.jit(beam.free_search, static_argnums=(0, 3))
    tokens_BMI, scores_BM = search(model(normalize), params(), tokens_BS, num_beams)
    ids = map(tuple, model().vocabulary.tokens(table().semantic_ids_NI[1:]).tolist())
    item_of = {item_id: item for item, item_id in enumerate(ids, start=1)}
    found = [[item_of.get(tuple(beam), 0) for beam in beams] for beams in tokens_BMI.tolist()]
    return RankedItems(np.array(found, np.int32), np.asarray(scores_BM))


@pytest.mark.parametrize("normalize", ["full", "level"])
def test_free_search_keeps_the_place_of_an_invalid_id(normalize):
    found = recommender(normalize, search="free", num_beams=8).recommend(
        USERS, ragged(), 8, exclude_history=False
    )
    check_equal(found, free_reference(normalize, 8))
    assert np.isfinite(found.scores).all()
    assert (found.item_numbers == 0).any()
    # Over all tokens the random model never finds a valid ID.
    assert (found.item_numbers > 0).any() == (normalize == "level")


def test_free_filtered_widens_the_beam_until_enough_are_valid():
    options = {"search": "free_filtered", "num_beams": 8, "max_beams": 16}
    found = recommender("level", **options).recommend(USERS, ragged(), 6, exclude_history=False)
    by_width = {width: without_invalid_ids(free_reference("level", width)) for width in (8, 16)}
    widths = set()
    for row in range(len(USERS)):
        width = 8 if by_width[8].used[row].sum() >= 6 else 16
        widths.add(width)
        expected = by_width[width].item_numbers[row, :6]
        np.testing.assert_array_equal(found.item_numbers[row], expected)
    assert len(widths) == 2


def test_a_free_beam_may_be_wider_than_the_catalogue(monkeypatch):
    """One ID in eight is an item: six of them take 48 beams, more than there are items."""
    widths = []

    def one_in_eight(self, requests, rows, num_beams):
        widths.append(num_beams)
        item_numbers_BM = np.zeros((len(rows), num_beams), np.int32)
        item_numbers_BM[:, ::8] = np.arange(1, 1 + len(item_numbers_BM[0, ::8]))
        return RankedItems(item_numbers_BM, -np.ones(item_numbers_BM.shape, np.float32))

    monkeypatch.setattr(recommender_module.Recommender, "_ranked", one_in_eight)
    options = {"search": "free_filtered", "num_beams": 8, "max_beams": 64}
    found = recommender("level", **options).recommend(USERS, ragged(), 6, exclude_history=False)
    assert widths == [8, 16, 32, 64]
    assert found.used.all()


def test_without_invalid_ids_keeps_the_order():
    ranked = RankedItems(
        np.array([[0, 7, 0, 3], [0, 0, 9, 0]], np.int32),
        np.array([[-1, -2, -3, -4], [-1, -2, -3, -np.inf]], np.float32),
    )
    found = without_invalid_ids(ranked)
    assert found.item_numbers.tolist() == [[7, 3, 0, 0], [9, 0, 0, 0]]
    assert found.scores.tolist() == [[-2, -4, -np.inf, -np.inf], [-3] + [-np.inf] * 3]


def test_prefix_match_by_hand():
    #      item 1     item 2     item 3     item 4     item 5
    ids = [(1, 2, 0), (1, 2, 1), (1, 0, 0), (2, 2, 0), (1, 3, 0)]
    trie = Trie.from_semantic_ids(np.array([(0, 0, 0), *ids]), (3, 4, 2))
    beams = [
        ((1, 2, 7), "(1, 2) leads to item 1 and 2; item 1 is named by a valid ID below: 2"),
        ((1, 2, 0), "valid: 1"),
        ((1, 2, 3), "both of (1, 2) are named; (1,) leads to 3 first"),
        ((0, 2, 0), "no item starts with 0: remains invalid"),
        ((1, 9, 0), "(1,) leads to 3, 1, 2 and 5 in the order of IDs; 5 is left"),
        ((1, 3, 1), "nothing of (1, 3), nothing of (1,): remains invalid"),
        ((2, -1, 5), "(2,): 4"),
        ((0, 0, 0), "an unused slot"),
    ]
    ranked = RankedItems(
        np.array([[0, 1, 0, 0, 0, 0, 0, 0]], np.int32),
        np.array([[-1, -2, -3, -4, -5, -6, -7, -np.inf]], np.float32),
    )
    found = match_prefixes(ranked, np.array([[codes for codes, _ in beams]]), trie)
    assert found.item_numbers.tolist() == [[2, 1, 3, 0, 5, 0, 4, 0]]
    np.testing.assert_array_equal(found.scores, ranked.scores)


def test_prefix_match_fills_the_free_list_and_nothing_else():
    free = free_reference("level", 8)
    matched = recommender("level", search="prefix_match", num_beams=8).recommend(
        USERS, ragged(), 8, exclude_history=False
    )
    valid = free.item_numbers > 0
    np.testing.assert_array_equal(matched.item_numbers[valid], free.item_numbers[valid])
    assert (matched.item_numbers > 0).sum() > valid.sum()
    for items in matched.item_numbers:
        items = items[items > 0]
        assert len(set(items)) == len(items)


def test_all_that_is_left_by_a_long_history_is_found(monkeypatch):
    """As many times as the shortest deny list holds; by a beam of five and of the catalogue."""
    monkeypatch.setattr(requests_module, "_SHORTEST_DENIED", 1)
    order = np.random.default_rng(5).permutation(np.arange(1, NUM_ITEMS + 1))
    history, left = [*order[5:], *order[5:9]], set(order[:5])
    assert len(history) > 8
    for num_beams in (5, NUM_ITEMS):
        found = recommender(num_beams=num_beams).recommend(None, [history, [7]], 5)
        assert set(found.item_numbers[0]) == left
        assert found.used[1].all()
        assert 7 not in found.item_numbers[1]


def test_filters_hold_for_each_history():
    """Against a recommender that finds everything, less what the filter leaves out."""
    masks = np.random.default_rng(8).random((2, NUM_ITEMS + 1)) < 0.5
    filtered = recommender(num_beams=NUM_ITEMS).with_filters({"adult": masks[0], "de": masks[1]})
    everything = filtered.recommend(USERS, ragged(), NUM_ITEMS, exclude_history=False)
    names = [("adult", "de", None)[row % 3] for row in range(len(USERS))]
    found = filtered.recommend(USERS, ragged(), NUM_ITEMS, exclude_history=True, filter=names)
    for row, name in enumerate(names):
        is_in = {"adult": masks[0], "de": masks[1], None: np.ones(NUM_ITEMS + 1)}[name]
        expected = [
            item
            for item in everything.item_numbers[row]
            if is_in[item] and item not in ragged()[row]
        ]
        assert [item for item in found.item_numbers[row] if item] == expected
    one = filtered.recommend(USERS, ragged(), NUM_ITEMS, filter="de")
    assert not set(one.item_numbers.ravel()) - {0, *np.flatnonzero(masks[1])}


def test_draws_repeat_with_the_seed_and_vary_without():
    drawn = [
        recommender().recommend(USERS, ragged(), 4, temperature=[1.0, 2.0, 0.5], seed=seed)
        for seed in (1, 1, 2)
    ]
    check_equal(drawn[0], drawn[1])
    assert (drawn[0].item_numbers != drawn[2].item_numbers).any()
    everything = recommender(num_beams=NUM_ITEMS)
    drawn = everything.recommend(USERS, ragged(), NUM_ITEMS, temperature=1.0, exclude_history=False)
    ranked = everything.recommend(USERS, ragged(), NUM_ITEMS, exclude_history=False)
    order = np.argsort(-drawn.scores, axis=1, kind="stable")
    np.testing.assert_allclose(np.take_along_axis(drawn.scores, order, 1), ranked.scores, atol=1e-5)


def test_a_seed_for_each_history_draws_as_if_it_were_alone():
    together = recommender().recommend(
        None, [[1], [2], [1]], 4, temperature=2.0, seed=[7, 7, 2**31 - 1]
    )
    for row, (history, seed) in enumerate([([1], 7), ([2], 7), ([1], 2**31 - 1)]):
        alone = recommender().recommend(None, [history], 4, temperature=2.0, seed=seed)
        assert together.item_numbers[row].tolist() == alone.item_numbers[0].tolist()
    with pytest.raises(InputError, match="1 seeds, but 2 histories; give pairs"):
        recommender().recommend(None, [[1], [2]], 4, temperature=2.0, seed=[7])


def test_new_items_are_found_without_compiling_again():
    """Tables that grow out of one another; filters are given again."""
    small = SemanticIdTable.from_codes(
        np.random.default_rng(0).integers(0, [3, 4], (6, 2)), SIZES[:2], {"items_checksum": "x"}, 7
    )
    vocabulary = Vocabulary((*SIZES[:2], 7), num_user_tokens=0)
    config = dataclasses.replace(model().config, vocab_size=vocabulary.size)
    other_model = TigerModel(config, vocabulary)
    first = Recommender(
        other_model,
        other_model.init(jax.random.key(0)),
        small,
        MAX_HISTORY,
        num_beams=9,
        capacity=20,
        item_ids=["", *"abcdef"],
    )
    answer = first.recommend_raw(None, [["b", "zz", "c"]], 9)[0]
    assert answer.unknown == ["zz"]
    assert set(answer.item_ids) == set("adef")
    compiled = recommender_module._constrained_items._cache_size()
    grown = small.with_new_items(np.array([(0, 0), (0, 0), (2, 3)]), {})
    second = first.with_table(grown, ["", *"abcdefghi"])
    answer = second.recommend_raw(None, [["b", "i", "c"]], 9)[0]
    assert answer.unknown == []
    assert set(answer.item_ids) == set("adefgh")
    assert answer.scores == sorted(answer.scores, reverse=True)
    assert recommender_module._constrained_items._cache_size() == compiled
    assert set(first.recommend_raw(None, [["b"]], 9)[0].item_ids) == set("acdef")
    with pytest.raises(InputError, match="has not grown out of the one in use"):
        second.with_table(small, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, [[1], [2, NUM_ITEMS + 1]], 3), f"history 1 .* holds {NUM_ITEMS + 1}"),
        ((None, [[0]], 3), "holds 0"),
        ((["a"], [[1], [2]], 3), "1 users, but 2 histories"),
        ((None, [[1]], 0), "num_results is 0"),
        ((None, [[1]], 257), "num_results is 257; ask for 1 to 256"),
        ((None, [[1]], 3, False, "cheap"), "no filter 'cheap'; choose one of: there are none"),
        ((None, [[1]], 3, False, [None, None]), "2 filters, but 1 histories"),
        ((None, [[1]], 3, False, None, 0.0), "temperature is 0.0; give one number of at"),
        ((None, [[1]], 3, False, None, [1, 2]), "or 3 of them"),
        ((None, [[1]], 3, False, None, 1.0, 2**32 + 7), "seed is 4294967303; give whole numbers"),
        ((None, [[1]], 3, False, None, 1.0, -1), "seed is -1"),
        ((None, [[1]], 3, False, None, 1.0, np.array([1, 2])), "2 seeds, but 1 histories"),
    ],
)
def test_faulty_requests_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        recommender().recommend(*arguments)


def test_what_a_recommender_cannot_do_is_refused():
    with pytest.raises(InputError, match="num_beams=300: 256 are allowed"):
        recommender(num_beams=300, max_beams=256)
    with pytest.raises(InputError, match="for the constrained search alone"):
        recommender(search="free").recommend(None, [[1]], 3, temperature=1.0)
    with pytest.raises(InputError, match="filter 'new' has shape"):
        recommender().with_filters({"new": np.ones(3, bool)})


def test_an_unknown_search_is_refused():
    with pytest.raises(InputError, match="choose one of constrained, free"):
        recommender(search="greedy")


@pytest.fixture
def folder(tmp_path):
    """A prepared folder with a run of two checkpoints, of which the first is the best."""
    rows = [{"item_id": f"B{item}", "title": f"Title {item}"} for item in range(1, NUM_ITEMS + 1)]
    rows[1]["title"] = None
    header = {"items_checksum": "x", "metadata_checksum": content.save_items(tmp_path, rows)}
    items, offsets = np.arange(1, 4, dtype=np.int32), np.array([0, 3])
    item_ids = ("", *(row["item_id"] for row in rows))
    Sequences(("ann",), item_ids, items, offsets, header).save(tmp_path / "sequences.npz")
    table().save(tmp_path / "ids" / "random" / "semantic_ids.npz")
    network = {name: getattr(model().config, name) for name in NetworkConfig.__dataclass_fields__}
    settings = {
        "ids": "random",
        "table": table().checksum(),
        "network": network,
        "normalize": "full",
        "num_user_tokens": 5,
        "max_history": MAX_HISTORY,
    }
    run = tmp_path / "runs" / "tiger"
    artifacts.save_json(run / "run.json", settings)
    best = {"best": {"step": 10}}
    checkpoints.save(run / "checkpoints", 10, params(), {}, best)
    checkpoints.save(run / "checkpoints", 20, jax.tree.map(np.zeros_like, params()), {}, best)
    return tmp_path


def test_load_takes_the_best_checkpoint(folder):
    loaded = Recommender.load(folder, "tiger", num_beams=4, batch_size=4)
    assert loaded.step == 10
    check_equal(loaded.recommend(USERS, ragged(), 4), recommender().recommend(USERS, ragged(), 4))
    last = Recommender.load(folder, "tiger", step=20)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(last.params))


def test_load_refuses_another_table_and_missing_checkpoints(folder):
    other = SemanticIdTable.from_distinct_codes(
        table().semantic_ids_NI[:0:-1], SIZES, table().header
    )
    other.save(folder / "ids" / "random" / "semantic_ids.npz")
    with pytest.raises(InputError, match=r"not the table that .* was trained with"):
        Recommender.load(folder, "tiger")
    table().save(folder / "ids" / "random" / "semantic_ids.npz")
    with pytest.raises(InputError, match=r"checkpoint_15: no such checkpoint; .* steps 10, 20"):
        Recommender.load(folder, "tiger", step=15)
    checkpoints.keep(folder / "runs" / "tiger" / "checkpoints", set())
    with pytest.raises(InputError, match="no checkpoint yet"):
        Recommender.load(folder, "tiger")
    with pytest.raises(InputError, match="runs/other: no such run; give one of tiger, or make"):
        Recommender.load(folder, "other")
    artifacts.save_json(folder / "runs/sasrec/run.json", {"model": "sasrec", "network": {}})
    with pytest.raises(InputError, match="runs/sasrec: a run of sasrec, not of TIGER; give one of"):
        Recommender.load(folder, "sasrec")


def test_verb_prints_titles_and_counts_unknown_ids(folder, capsys):
    recommend_module.main(
        ["recommend", f"--folder={folder}", "--run=tiger", "--history=B3, nope,B2", "--json"]
    )
    *text, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert result["history"] == ["B3", "B2"]
    assert result["unknown"] == ["nope"]
    assert "     B2  (no title)" in text
    assert "1 unknown ids skipped: nope" in text
    expected = recommender(num_beams=30).recommend(None, [[3, 2]], 10, exclude_history=True)
    found = [row["item_id"] for row in result["results"]]
    assert found == [f"B{item}" for item in expected.item_numbers[0]]
    assert any(f"B{expected.item_numbers[0, 0]}  Title" in line for line in text)
    scores = [row["score"] for row in result["results"]]
    np.testing.assert_allclose(scores, expected.scores[0], atol=1e-5)
    result = recommend_module.recommend(str(folder), "tiger", "B3", num_results=NUM_ITEMS)
    titles = {row["item_id"]: row["title"] for row in result["results"]}
    assert titles["B2"] is None
    assert titles["B1"] == "Title 1"


def test_verb_takes_the_stored_history_of_a_user(folder, capsys):
    for arguments in (["--user=ann"], []):
        recommend_module.main(
            ["recommend", f"--folder={folder}", "--run=tiger", *arguments, "--json"]
        )
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert result["history"] == ["B1", "B2", "B3"]
        expected = recommender(num_beams=30).recommend(["ann"], [[1, 2, 3]], 10, True)
        found = [row["item_id"] for row in result["results"]]
        assert found == [f"B{item}" for item in expected.item_numbers[0]]
    with pytest.raises(SystemExit) as stop:
        recommend_module.main(["recommend", f"--folder={folder}", "--run=tiger", "--user=bob"])
    assert stop.value.code == 2
    assert "user 'bob' is not in the prepared data" in capsys.readouterr().err
