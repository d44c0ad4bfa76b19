"""Nothing that comes from outside becomes markup, whatever the template does with it."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib.resources import files

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from mvd_ds.files import printable
from mvd_ds.tools.report import templating
from mvd_ds.tools.report.templating import Cell, Definition, Row, Table, cells, render

HOSTILE = '</title></code></style><script>alert("1")</script><img src=x onerror=\'alert(2)\'>" onmouseover="alert(3)'


class Tags(HTMLParser):
    """Collects tags, their attributes and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def evaluation(text: str) -> str:
    """The evaluation page with ``text`` wherever text can stand."""
    table = Table([text] * 3, [Row(text, cells(text, Cell(text, text, is_code=True)), is_code=True)])
    plain = dict.fromkeys(("title", "subtitle", "lead", "unreadable_note"), text)
    image = templating.Image("data:image/png;base64,", text)
    drawn = templating.Figure(text, [], text, templating.ColourKey([(text, "ink")]), image)
    tables = dict.fromkeys(("summary", "pairs", "classes", "unreadable", "retrieval"), table)
    figures = dict.fromkeys(("reliability", "confusion", "worst"), drawn)
    return render("evaluation", **plain, **tables, **figures, attention=[text], places=[Definition(text, text, True)])


def test_hostile_text_comes_out_as_text() -> None:
    hostile, harmless = Tags(evaluation(HOSTILE)), Tags(evaluation("x"))
    assert hostile.tags == harmless.tags and hostile.attributes == harmless.attributes
    assert hostile.text.count(HOSTILE) >= 20


def test_every_template_escapes() -> None:
    environment = templating._environment()
    assert environment.autoescape is True
    names = [path.name for path in files("mvd_ds.tools.report").joinpath("templates").iterdir()]
    assert len(names) >= 5
    for name in names:
        text = files("mvd_ds.tools.report").joinpath("templates", name).read_text()
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, name


def test_a_name_that_is_missing_is_a_fault_and_not_an_empty_place() -> None:
    with pytest.raises(UndefinedError):
        render("page", title="a")
    with pytest.raises(TemplateNotFound):
        render("nothing")


def test_control_characters_and_broken_bytes_are_shown_as_escapes() -> None:
    assert printable("caf\udce9\x1b[2J\x00") == r"caf\xe9\x1b[2J\x00"
    assert printable("a\n\tb\u00a0c é") == "a\n\tb\u00a0c é"
    evaluation("caf\udce9").encode("utf-8")


def test_every_cell_carries_its_header_for_narrow_pages() -> None:
    table = Table(["run", "top-1", "videos"], [Row("a", cells("1", "2")), Row("b", cells("3", ""))])
    page = render("report", **{**_EMPTY, "stages": table})
    assert page.count('data-label="top-1"') == page.count('data-label="videos"') == 2
    style = files("mvd_ds.tools.report").joinpath("templates/style.css").read_text()
    assert "content: attr(data-label)" in style


_LISTS = (
    "sentences",
    "attention",
    "names",
    "probe_figures",
    "accuracy_figures",
    "depth_figures",
    "class_clips",
    "pictures",
    "losses",
    "shared",
)
_LISTS += ("dense", "setting_differences", "runs", "places", "commands", "folders")
_NOTHING = (
    "finetuned",
    "answer_table",
    "order_table",
    "halves_table",
    "encoder_table",
    "adaptation_table",
    "probe_table",
    "probe_key",
    "differences",
    "accuracy_table",
    "memory",
    "replaced",
    "origins",
)
_TEXTS = (
    "has_targets",
    "has_students",
    "title",
    "subtitle",
    "lead",
    "probe_note",
    "accuracy_note",
    "answer_note",
    "order_note",
    "halves_note",
    "replaced_note",
)
_EMPTY: dict[str, object] = {key: [] for key in _LISTS} | dict.fromkeys(_NOTHING) | dict.fromkeys(_TEXTS, "")
