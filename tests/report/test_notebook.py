from __future__ import annotations

from html.parser import HTMLParser

import pytest
from tests.report.samples import SAMPLES

from gradtrace.report.notebook import to_html


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in ("br",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", SAMPLES)
def test_the_html_is_well_formed_and_escaped(name):
    html = to_html(SAMPLES[name]())
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.seen <= set(
        "div p b br small code pre table thead tbody tr th td svg rect title text line path span".split()
    )
    assert "\x1b" not in html


def test_names_show_as_text():
    html = SAMPLES["hostile"]()._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html
    assert "torch.log(x + &lt;eps&gt;)" in html
