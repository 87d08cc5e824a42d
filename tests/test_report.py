"""The pages: one file each, well-formed, readable on a telephone, harmless whatever items say."""

import html.parser
import re

import pytest

from tiger_jax.report import pictures
from tiger_jax.report.page import Page, printable

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
            {"code 0": [1, 2], "code 1": [3, 4]},
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


@pytest.mark.parametrize("name", list(every_picture()))
def test_a_picture_draws_its_values_and_names_in_text(name):
    picture = every_picture()[name]
    words = [element.text for element in picture.iter("text")]
    expected = {
        "lines": {"a $x$", "step", "loss"},
        "log": {"rank", "count", "1,000"},
        "columns": {"length", "users"},
        "stacked columns": {"one", "items"},
        "stacked bars": {"Hair", "code 0", "code 1"},
    }
    assert expected[name] <= set(words)
