"""Pages as a test reads them: text, tags and attributes, and that nothing in them runs or is fetched."""

import re
from html.parser import HTMLParser

VOID = {"meta", "input", "img", "br", "wbr", "link", "hr"}
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "div",
        "span",
        "p",
        "i",
        "a",
    ),
    *("h1", "h2", "h3", "h4", "ul", "li", "dl", "dt", "dd", "pre", "wbr", "details", "summary", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "fieldset", "legend", "label", "input", "img"),
    *("svg", "g", "path", "line", "text"),
}


class HtmlPage(HTMLParser):
    """The text, tags and attributes of a page; it fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], set(), [], []
        self.source = text
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.words))

    def values(self, name):
        return [value for _, attribute, value in self.attributes if attribute == name]


def require_safe(page):
    """Nothing in a page runs, and nothing is fetched."""
    assert page.tags <= TAGS
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert all(link.startswith("#") for link in page.values("href"))
    assert all(source.startswith("data:image/") for source in page.values("src"))
    bare = re.sub(r"base64,[^\"]*", "", page.source)
    assert not re.findall(r"https?:|\bws:|//[a-z]|@import|url\(|xlink", bare)
    assert "default-src 'none'" in page.source
    identities = page.values("id")
    assert len(identities) == len(set(identities))
