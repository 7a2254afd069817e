"""HTML as the tests look at it."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br"}
HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;</style><script>alert(2)</script>"


class Page(HTMLParser):
    """What is in a page; raises AssertionError where elements do not close in order.

    Attributes:
      elements: (name, attributes, the text in it), in the order of their ends.
    """

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        if name in VOID:
            self.elements.append((name, attributes, ""))
        else:
            self._open.append((name, attributes, []))

    def handle_endtag(self, name):
        opened, attributes, texts = self._open.pop()
        assert opened == name
        self.elements.append((name, attributes, "".join(texts)))

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, name, **wanted):
        """Return (attributes, text) of the elements with a name and attributes."""
        return [
            (attributes, text)
            for found, attributes, text in self.elements
            if found == name and wanted.items() <= attributes.items()
        ]

    def table(self, caption):
        """Return the rows of cells of the one table with a caption."""
        rows, row, tables = [], [], []
        for name, _, text in self.elements:
            if name in ("th", "td"):
                row.append(text)
            elif name == "caption":
                rows, is_it = [], text == caption
            elif name == "tr":
                rows.append(row)
                row = []
            elif name == "table" and is_it:
                tables.append(rows)
        (table,) = tables
        return table

    def check_harmless(self):
        """Check that nothing runs and nothing is asked for."""
        names = {name for name, _, _ in self.elements}
        assert not names & {"script", "iframe", "object", "embed", "link", "form", "a"}
        for name, attributes, _ in self.elements:
            assert not [key for key in attributes if key.startswith("on")]
            assert attributes.get("src", "data:").startswith("data:")
            assert "url(" not in attributes.get("style", "")
            assert name != "img" or attributes["alt"]
