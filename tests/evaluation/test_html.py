"""util.evaluation.html: text stays text, tables have headers."""

import base64
import io

import numpy as np
import pytest
from pages import HOSTILE, Page
from PIL import Image

from util.evaluation import html
from util.evaluation.html import Column, element, join, table


def test_texts_are_escaped_and_html_is_not():
    assert element("p", "<b>&", title='"x"') == (
        '<p title="&quot;x&quot;">&lt;b&gt;&amp;</p>'
    )
    assert element("p", element("b", "x")) == "<p><b>x</b></p>"
    assert join(["<", element("i", "y")], " ") == "&lt; <i>y</i>"


@pytest.mark.parametrize(
    "write",
    [
        lambda text: html.page(text),
        lambda text: element("p", text),
        lambda text: element("p", "x", title=text),
        lambda text: table(text, [Column(text, [text])], [[text, text]]),
        lambda text: html.plot("<svg/>", text),
        lambda text: html.photo(np.zeros([2, 2, 3], np.uint8), text, text),
    ],
)
def test_hostile_text_is_shown(write):
    page = Page(write(HOSTILE))
    page.check_harmless()
    texts = [text for _, _, text in page.elements]
    values = [
        value for _, attributes, _ in page.elements for value in attributes.values()
    ]
    assert HOSTILE in texts or HOSTILE in values


def test_page_forbids_all_that_it_does_not_need():
    page = Page(html.page("title", element("p", "text")))
    policy = {"http-equiv": "Content-Security-Policy"}
    ((attributes, _),) = page.all("meta", **policy)
    assert attributes["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    )
    assert page.all("html", lang="en") and page.all("meta", charset="utf-8")
    assert [text for _, text in page.all("h1")] == ["title"]
    assert [text for _, text in page.all("title")] == ["title"]


def test_table_says_what_its_cells_are():
    columns = [Column("name"), Column("A", ["x", "y"]), Column("z")]
    page = Page(table("caption", columns, [["first", "1", "2", "3"]]))
    assert page.table("caption") == [
        ["name", "A", "z"],
        ["x", "y"],
        ["first", "1", "2", "3"],
    ]
    assert page.all("th", scope="col", rowspan="2") == [
        ({"scope": "col", "rowspan": "2"}, name) for name in "name z".split()
    ]
    assert page.all("th", scope="colgroup", colspan="2")[0][1] == "A"
    assert [text for _, text in page.all("th", scope="row")] == ["first"]


def test_table_without_parts_has_one_row_of_headers():
    page = Page(table("caption", [Column("a"), Column("b")], []))
    assert page.table("caption") == [["a", "b"]]
    assert not page.all("th", rowspan="2")


def test_images_are_in_the_page():
    image = np.array(Image.new("RGB", (30, 20), (200, 40, 40)))
    page = Page(html.photo(image, "alt", "caption"))
    ((attributes, _),) = page.all("img")
    assert (attributes["width"], attributes["height"]) == ("30", "20")
    kind, content = attributes["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert shown.size == (30, 20)
        assert (
            max(abs(a - b) for a, b in zip(shown.getpixel((9, 9)), (200, 40, 40))) < 9
        )
