"""HTML by construction: text is escaped unless it is ``Html`` already, so nothing read from a file becomes markup."""

from __future__ import annotations

import html


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def element(name: str, *children: str | None, **attributes: str | None) -> Html:
    """``<name attributes>children</name>``.

    Args:
        children: ``Html`` stands as it is, other text is escaped, None is left out.
        attributes: values are escaped, None is left out; ``class_`` is class, ``aria_label`` is aria-label.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """The children one after another, escaped like those of ``element``."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children if child is not None))


def table(head: list[str], rows: list[Html], class_: str | None = None) -> Html:
    """A table with one header row, in a box that scrolls sideways when the page is narrow."""
    header = element("thead", element("tr", *(element("th", name, scope="col") for name in head)))
    return element("div", element("table", header, element("tbody", *rows), class_=class_), class_="scroll")


def row(first: str, *cells: str, class_: str | None = None) -> Html:
    """A table row whose first cell names it."""
    return element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells), class_=class_)


def figure(title: str, chart: Html) -> Html:
    """A drawing under its title."""
    return element("figure", element("strong", title), chart)


def colour_key(names: list[tuple[str, str]]) -> Html:
    """What the colours of drawings mean: (what is drawn, name of the colour)."""
    entries = (element("span", element("i", style=f"border-color: var(--{colour})"), name) for name, colour in names)
    return element("p", *entries, class_="key")
