"""A page as one file that needs nothing beside it."""

from __future__ import annotations

from mvd_ds.tools.report.markup import Html, element
from mvd_ds.tools.report.style import STYLE

#: No script, no request, pictures only out of the file itself: the browser refuses anything else.
HEAD = Html(
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)


def document(title: str, subtitle: str, *sections: Html | None) -> str:
    """The whole HTML document; sections that are None are left out."""
    header = element("header", element("h1", title), element("p", subtitle, class_="quiet"))
    head = element("head", HEAD, element("title", title), element("style", STYLE))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{element("body", header, *sections)}</html>\n'
