"""The pages: one file each, well-formed, readable on a telephone, harmless whatever items say."""

import html.parser
import re

import numpy as np
import pytest

from tiger_jax import metrics, paper
from tiger_jax.data.sequences import Sequences
from tiger_jax.report import eval as eval_report
from tiger_jax.report import ids as ids_report
from tiger_jax.report import pictures
from tiger_jax.report import prepare as prepare_report
from tiger_jax.report import train as train_report
from tiger_jax.report.page import Page, printable, short_name
from tiger_jax.semantic_ids.table import SemanticIdTable

PHONE = 360
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
HOSTILE = "</title></style><script>alert('1')</script>\x00\x1b[2J \ud800 $x_1$ &amp; \"'"


class Reader(html.parser.HTMLParser):
    """Reads a page and keeps its tags; asserts that each is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def require_page(path):
    """What every page must be; returns what was read."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Reader(text)
    attributes = [(tag, *pair) for tag, pairs in page.tags for pair in pairs.items()]
    # All in one file: nothing is run, nothing is fetched.
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    for tag, name, value in attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "action", "data") or name.endswith(":href"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.search(r"url\((?!#)|@import", text)
    # Pictures speak to those who do not see them.
    for tag, pairs in page.tags:
        if tag == "svg":
            assert pairs["role"] == "img"
            assert len(pairs["aria-label"]) > 20
    # Nothing is wider than a telephone, and tables scroll within their boxes.
    assert ("meta", "name", "viewport") in attributes
    for tag, name, value in attributes:
        if name in ("width", "min-width") and tag not in ("rect", "use", "image", "pattern"):
            assert float(re.match(r"[\d.]+", value)[0]) <= PHONE, (tag, name, value)
    for size in re.findall(r"(?<!max-)width:\s*([\d.]+)px", text):
        assert float(size) <= PHONE
    assert len(re.findall("<table", text)) == len(re.findall('class="scroll"', text))
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value for _, name, value in attributes if name == "href"}
    assert references <= {f"#{value}" for value in ids}
    return page


def every_picture():
    return {
        "lines": pictures.lines(
            {"a $x$": ([1, 2, 3], [3, None, 1]), HOSTILE: ([1, 2], [2, 2])},
            "step",
            "loss",
            "Two curves that fall from 3 to 1",
        ),
        "log": pictures.lines(
            {"": ([1, 10, 100], [1000, 100, 10])},
            "rank",
            "count",
            "A curve that falls from 1,000",
            log=True,
        ),
        "columns": pictures.columns(
            [3, 4, 7], [1, 5, 2], "length", "users", "Columns at lengths 3, 4 and 7"
        ),
        "stacked columns": pictures.stacked_columns(
            {"one": [1, 2], HOSTILE: [3, 1]}, "code", "items", "Two columns of two parts each"
        ),
        "stacked bars": pictures.stacked_bars(
            ["Hair", HOSTILE],
            {"_code 0": [1, 2], "_code 1": [3, 4]},
            "items",
            "Two bars of two parts each",
        ),
    }


@pytest.fixture(scope="module")
def page_with_everything(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    page = Page(HOSTILE, HOSTILE)
    page.heading(HOSTILE)
    page.text(HOSTILE)
    page.facts({HOSTILE: HOSTILE})
    page.table([HOSTILE, "n"], [[HOSTILE, "1,000"], ["-", "2"]], HOSTILE, marked=[1])
    page.pictures(*((picture, HOSTILE) for picture in every_picture().values()))
    page.pictures(*((picture, "again") for picture in every_picture().values()))
    with page.details(HOSTILE):
        page.list([HOSTILE], ordered=True)
    page.text("behind the folded part")
    page.save(path)
    return path


def test_a_page_of_hostile_texts_is_a_page_that_shows_them(page_with_everything):
    page = require_page(page_with_everything)
    assert page.texts.count(printable(HOSTILE)) >= 9
    assert "alert" in "".join(page.texts)


def test_what_follows_details_stands_outside_of_them(page_with_everything):
    text = page_with_everything.read_text()
    assert text.index("</details>") < text.index("behind the folded part")


def test_the_marked_row_and_columns_of_numbers_are_set_apart(page_with_everything):
    text = page_with_everything.read_text()
    assert re.search(r'<tr class="marked">\s*<td>-</td>\s*<td class="number">2</td>', text)


def test_equal_content_gives_equal_bytes(page_with_everything, tmp_path):
    for name in ("one", "two"):
        page = Page("title")
        page.pictures(*((picture, "caption") for picture in every_picture().values()))
        page.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_text_is_cut_to_its_length_on_one_line():
    assert printable("a\n\tb\x00c") == "a b c"
    assert printable("x" * 10_000) == "x" * 159 + "…"
    assert printable("\ud800") == ""
    assert printable("  a  ") == "a"


def test_an_encoder_in_a_folder_is_called_by_the_end_of_its_path():
    assert short_name("tfidf") == "tfidf"
    assert short_name("sentence-transformers/sentence-t5-base") == (
        "sentence-transformers/sentence-t5-base"
    )
    assert short_name("/home/me/models/MiniLM/") == "…/models/MiniLM"


def test_pictures_have_the_ink_and_the_paper_of_the_page():
    for picture in every_picture().values():
        styles = " ".join(element.get("style", "") for element in picture.iter())
        assert "currentColor" in styles
        assert not re.search("#(fff|ffffff|000|000000|010203|040506)\\b", styles)


@pytest.mark.parametrize("name", list(every_picture()))
def test_a_picture_draws_its_values_and_names_in_text(name):
    picture = every_picture()[name]
    words = [(element.text or "").strip() for element in picture.iter("text")]
    expected = {
        "lines": {"a $x$", "step", "loss"},
        "log": {"rank", "count", "1,000"},
        "columns": {"length", "users"},
        "stacked columns": {"one", "items"},
        "stacked bars": {"Hair", "_code 0", "_code 1"},
    }
    assert expected[name] <= set(words)


NUM_ITEMS = 90
COUNTED = ("users", "items", "interactions")


@pytest.fixture(scope="module")
def sequences():
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, 70, 30)
    return Sequences(
        user_ids=tuple(f"user {row}" for row in range(30)),
        item_ids=("", *map(str, range(NUM_ITEMS))),
        items=generator.integers(1, NUM_ITEMS + 1, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        header={},
    )


def write_prepare(folder, sequences, **changes):
    result = {
        "dataset": HOSTILE,
        **sequences.statistics(),
        "encoder": HOSTILE,
        "text_fields": ("title",),
        "dropped_by_reason": [
            {"reason": HOSTILE, "users": 7, "items": 0, "interactions": 41},
            {"reason": "nothing of it", **dict.fromkeys(COUNTED, 0)},
        ],
        "items_with": {"title": 60, HOSTILE: 0},
        "items_without_metadata": 3,
        "items_without_text": 5,
        **changes,
    }
    prepare_report.write(folder, result, sequences, [HOSTILE, ""] * (NUM_ITEMS // 2))
    return folder / "report.html"


def items_of(categories):
    return [
        {"item_id": HOSTILE, "title": HOSTILE if number % 2 else None, "categories": path}
        for number, path in enumerate(categories)
    ]


def write_ids(folder, codebook_sizes, categories, epochs=(10, 20)):
    generator = np.random.default_rng(1)
    codes_NL = generator.integers(0, codebook_sizes, (NUM_ITEMS, len(codebook_sizes)))
    header = {"scheme": HOSTILE, "dataset": HOSTILE, "encoder": HOSTILE, "seed": 0}
    table = SemanticIdTable.from_codes(codes_NL, codebook_sizes, header)
    health = table.health() | {"explained_variance": 0.5}
    history = [{"epoch": epoch, "loss": 1 / epoch, **health} for epoch in epochs]
    embeddings_NE = generator.normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    path = folder / "report.html"
    ids_report.write(path, table, health, history, items_of(categories), embeddings_NE)
    return path


def write_eval(folder, sequences, targets_first, fusion=""):
    _, targets = sequences.split("test")
    lists = np.array([np.roll(np.arange(1, NUM_ITEMS + 1), 1 - t)[:12] for t in targets])
    lists = lists if targets_first else np.roll(lists, 11, axis=1)[:, :10]
    lists[:, 3] = 0
    ranked = metrics.RankedItems(lists, -np.ones(lists.shape))
    scores = metrics.score(ranked, targets)
    result = {
        **scores,
        **dict.fromkeys(("run", "dataset", "ids", "encoder", "commit"), HOSTILE),
        "split": "test", "search": "free", "step": 1, "num_beams": 10, "num_users": 30,
        "distinct_items": 5, "invalid_id_rate": 0.1, "users_per_s": 3.0, "exclude_history": True,
        "with_history_items": scores, "without_history_items": scores,
        "baselines": {HOSTILE: scores}, "fusion": fusion,
    }  # fmt: skip
    path = folder / "report.html"
    eval_report.write(path, result, sequences, [HOSTILE] * NUM_ITEMS, np.arange(30), ranked)
    return path


def test_the_page_of_prepare_shows_what_was_dropped_and_why(sequences, tmp_path):
    page = require_page(write_prepare(tmp_path, sequences))
    assert {"7", "41", "66.7%"} <= set(page.texts)
    assert "nothing of it" not in page.texts
    assert not any("Table 6" in text for text in page.texts)


def test_the_paper_stands_beside_its_own_dataset_only(sequences, tmp_path):
    path = write_prepare(tmp_path, sequences, users=22_363, items=12_101, mean_length=8.8764)
    page = require_page(path)
    assert {"22,363", "12,101", "8.88", "8.87"} <= set(page.texts)
    assert paper.dataset(22_363, 12_101) == "beauty"
    assert paper.dataset(22_363, 12_100) is None


def test_data_without_texts_have_a_page_too(sequences, tmp_path):
    require_page(write_prepare(tmp_path, sequences, text_fields=(), dropped_by_reason=[]))


HAIR_AND_SKIN = [[["Beauty", "Hair", "Combs"]], [["Beauty", "Skin", HOSTILE], ["Sun"]], None]
MANY = [[["Beauty", f"coarse {n % 20}", f"fine {n % 45}"]] for n in range(NUM_ITEMS)]


@pytest.mark.parametrize("codebook_sizes", [(3,), (4, 16, 256), (40, 3, 2, 2, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "categories",
    [HAIR_AND_SKIN * (NUM_ITEMS // 3), [None] * NUM_ITEMS, MANY],
    ids=["some", "none", "many"],
)
def test_ids_of_any_shape_have_a_page(codebook_sizes, categories, tmp_path):
    page = require_page(write_ids(tmp_path, codebook_sizes, categories))
    assert "Training" in page.texts
    assert ("Categories by code" in page.texts) == (categories[0] is not None)


def test_ids_that_nobody_trained_have_a_page(tmp_path):
    page = require_page(write_ids(tmp_path, (4, 4), MANY, epochs=()))
    assert "Training" not in page.texts


def test_figure_4_has_a_bar_a_category_and_a_part_a_code(tmp_path):
    """Two categories of 30 items each, by the first of three codes, counted by hand."""
    path = write_ids(tmp_path, (3, 4), HAIR_AND_SKIN * (NUM_ITEMS // 3))
    page = require_page(path)
    generator = np.random.default_rng(1)
    first_N = generator.integers(0, (3, 4), (NUM_ITEMS, 2))[:, 0]
    category_N = np.arange(NUM_ITEMS) % 3
    code = np.bincount(first_N[category_N < 2]).argmax()
    hair, skin = (np.sum((first_N == code) & (category_N == category)) for category in (0, 1))
    name = "Hair" if hair >= skin else "Skin"
    labels = [pairs["aria-label"] for tag, pairs in page.tags if tag == "svg"]
    (figure,) = (label for label in labels if label.startswith("Bars, categories by code"))
    share = max(hair, skin) / (hair + skin)
    assert f"{share:.0%} of {hair + skin} items are {name}" in figure
    assert {"Hair", "Skin", "code 0", "code 1", "code 2"} <= set(page.texts)


@pytest.mark.parametrize("targets_first", [True, False])
def test_the_page_of_eval_marks_the_hits(targets_first, sequences, tmp_path):
    page = require_page(write_eval(tmp_path, sequences, targets_first))
    hits = [text for text in page.texts if text.endswith("✓")]
    assert len(hits) == (10 if targets_first else 0)
    marked = [pairs for tag, pairs in page.tags if tag == "tr" and pairs.get("class") == "marked"]
    assert len(marked) == len(hits) + 1  # and the row of the run itself
    assert sum("(an ID that no item has)" in text for text in page.texts) == 10


@pytest.mark.parametrize("fusion", ["", "all"])
def test_the_page_of_eval_says_whose_scores_those_of_a_fusion_are(fusion, sequences, tmp_path):
    page = require_page(write_eval(tmp_path, sequences, True, fusion))
    ours = [text for text in page.texts if text.endswith((", history left out", ", history kept"))]
    assert [" with all, " in text for text in ours] == [bool(fusion)] * 2


def write_train(folder, num_rows, first_loss=2.0):
    table = SemanticIdTable.from_codes(np.arange(9)[:, None] % 4, (4,), {})
    rows = [
        {
            "step": 10 * row, "train_losses": [3.0, 1.0], "losses": [first_loss, 1.0],
            "losses_without_encoder": [4.0, 1.5], "bigram_first_code_loss": 2.5,
            "distinct_items": 100 * row,
            **dict.fromkeys(("recall@5", "recall@10", "ndcg@5", "ndcg@10"), 0.1 / row),
            "without_history": {"recall@10": 0.2, "ndcg@10": 0.2},
        }
        for row in range(1, num_rows + 1)
    ]  # fmt: skip
    timings = [
        {"step": row["step"], "time": 0.0, "training_seconds": 3660.0, "steps_per_s": 2.5}
        for row in rows
    ]
    facts = {"dataset": HOSTILE, "ids": HOSTILE, "num_steps": 90, "batch_size": 4}
    facts |= {"parameters": 12_684_416, "num_eval_users": 9, "num_beams": 30}
    path = folder / "report.html"
    train_report.write(path, HOSTILE, table, rows, timings, facts)
    return path


@pytest.mark.parametrize("num_rows", [1, 3, 40])
def test_a_run_has_a_page_from_its_first_validation_on(num_rows, tmp_path):
    page = require_page(write_train(tmp_path, num_rows))
    assert {"1 h 1 min", "12,684,416", "level 1", "collision token"} <= set(page.texts)
    # The best step is the first one: 0.1 falls from there.
    assert page.texts[page.texts.index("best step") + 2] == "10"


@pytest.mark.parametrize(
    ("first_loss", "words"),
    [(2.0, "it reads the history better"), (3.0, "it has not learned yet")],
)
def test_guard_rails_say_what_they_mean(first_loss, words, tmp_path):
    page = require_page(write_train(tmp_path, 2, first_loss))
    assert any(text.startswith(words) for text in page.texts)
