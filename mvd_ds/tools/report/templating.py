"""Tables, figures and colour keys as plain data, and the templates that turn them into one self-contained HTML page.

Jinja's autoescape is on: of everything that a template is given, only ``Markup`` becomes markup, and only charts are ``Markup``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mvd_ds.files import printable


class Cell(NamedTuple):
    """One cell of a table."""

    text: str
    note: str = ""
    """Small print beside the text."""
    is_code: bool = False
    share: float | None = None
    """Percent of a bar that is drawn in place of the text."""
    images: tuple[Image, ...] = ()


class Row(NamedTuple):
    """One row of a table; its first cell names it."""

    name: str
    cells: list[Cell]
    kind: str = ""
    """Class of the style sheet: ``first`` is bold, ``aside`` is muted, ``group`` begins a group."""
    is_code: bool = False


class Table(NamedTuple):
    """A table with one header row; on narrow pages every row becomes a list of header and value."""

    head: list[str]
    rows: list[Row]
    kind: str = ""
    """Class of the style sheet: ``words`` aligns text to the left and wraps it, ``pairs`` has names and values alone,
    ``measured`` has words in its second column and numbers behind it."""


class Image(NamedTuple):
    """A picture inside the page."""

    source: str
    """``data:`` address with the content."""
    name: str


class ColourKey(NamedTuple):
    """The meaning of the colours of drawings."""

    entries: list[tuple[str, str]]
    """(what is drawn, name of its colour)."""
    is_filled: bool = False
    """Squares in place of lines."""


class Figure(NamedTuple):
    """Drawings or a picture under one title."""

    title: str
    charts: list[tuple[str, Markup]]
    """(title of the drawing or "", SVG)."""
    caption: str = ""
    key: ColourKey | None = None
    image: Image | None = None


class Definition(NamedTuple):
    """A name and its explanation."""

    name: str
    text: str
    is_code: bool = False


def figure(title: str, chart: Markup | None, caption: str = "", key: ColourKey | None = None) -> Figure | None:
    """Return ``chart`` under its title; None if there is no chart."""
    return None if chart is None else Figure(title, [("", chart)], caption, key)


def cells(*texts: str | Cell) -> list[Cell]:
    """Return one cell for each text."""
    return [text if isinstance(text, Cell) else Cell(text) for text in texts]


def _shown(value: Any) -> Any:
    """Return text as ``printable`` has it; anything else as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **content: Any) -> str:
    """Return the HTML page that ``templates/TEMPLATE.html.jinja`` makes of ``content``."""
    return _environment().get_template(f"{template}.html.jinja").render(content)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mvd_ds.tools.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
