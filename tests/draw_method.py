"""Draw the picture of the first page: clip, teachers, student, loss. ``python tests/draw_method.py`` writes it."""

from __future__ import annotations

from pathlib import Path

PICTURE = Path(__file__).resolve().parent.parent / "mvd_ds" / "method.svg"
WIDTH, HEIGHT = 940, 330
IMAGE, VIDEO, STUDENT, CLIP = "#d97706", "#3b82f6", "#059669", "#8b8f98"
#: Patches of a frame of 5 x 5 that the student sees.
VISIBLE = ((0, 3), (2, 1), (3, 4))
STYLE = """
  text { font: 14px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
  .small { font-size: 12px; fill: #59636e }
  .line { stroke: #6e7781; stroke-width: 1.6; fill: none; marker-end: url(#head) }
  .head { fill: #6e7781 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .small { fill: #9198a1 }
  }
"""


def frames(x: int, y: int, masked: bool) -> list[str]:
    """Return three frames behind one another in which a disc moves; under a mask, the same few patches of each are left."""
    side, cell, parts = 80, 16, []
    for number in (2, 1, 0):
        left, top = x + 16 * number, y - 14 * number
        parts.append(
            f'<rect x="{left}" y="{top}" width="{side}" height="{side}" rx="3" fill="{CLIP}" fill-opacity=".18" stroke="{CLIP}"/>'
        )
        if masked:
            parts += [
                f'<rect x="{left + column * cell}" y="{top + row * cell}" width="{cell}" height="{cell}" fill="{STUDENT}" '
                f'fill-opacity=".85"/>'
                for row, column in VISIBLE
            ]
        else:
            parts.append(f'<circle cx="{left + 24 + 14 * number}" cy="{top + 50 - 10 * number}" r="12" fill="{CLIP}"/>')
    return parts


def box(x: int, y: int, width: int, colour: str, title: str, below: str) -> list[str]:
    """Return a box with two lines of text."""
    middle = x + width // 2
    return [
        f'<rect x="{x}" y="{y}" width="{width}" height="54" rx="8" fill="{colour}" fill-opacity=".16" stroke="{colour}" '
        'stroke-width="1.6"/>',
        f'<text x="{middle}" y="{y + 23}">{title}</text>',
        f'<text x="{middle}" y="{y + 42}" class="small">{below}</text>',
    ]


def arrow(*points: tuple[int, int]) -> str:
    """Return a line through ``points`` with a head at its end."""
    return f'<path class="line" d="M{" L".join(f"{x} {y}" for x, y in points)}"/>'


def tokens(x: int, y: int, colour: str, count: int = 6) -> list[str]:
    """Return a row of tokens."""
    return [
        f'<rect x="{x + 15 * number}" y="{y}" width="12" height="12" rx="2" fill="{colour}" fill-opacity=".8"/>'
        for number in range(count)
    ]


def draw() -> str:
    """Return the picture as SVG; text and lines are readable on light and on dark pages."""
    parts = [*frames(30, 76, masked=False), '<text x="86" y="180">clip</text>']
    parts += [*frames(30, 232, masked=True), '<text x="86" y="326">masked clip</text>']
    parts += box(210, 34, 190, IMAGE, "image teacher", "MAE, frozen, frame by frame")
    parts += box(210, 112, 190, VIDEO, "video teacher", "VideoMAE, frozen")
    parts += box(210, 244, 170, STUDENT, "student", "sees 10 % of the tokens")
    parts += box(420, 210, 150, IMAGE, "decoder", "image features")
    parts += box(420, 274, 150, VIDEO, "decoder", "video features")
    parts += [arrow((150, 90), (178, 90), (178, 61), (205, 61)), arrow((150, 90), (178, 90), (178, 139), (205, 139))]
    parts += [arrow((150, 271), (205, 271)), arrow((380, 271), (398, 271), (398, 237), (415, 237))]
    parts += [arrow((380, 271), (398, 271), (398, 301), (415, 301))]
    for y, colour in ((61, IMAGE), (139, VIDEO)):
        parts += [arrow((400, y), (585, y)), *tokens(592, y - 6, colour)]
    for y, colour in ((237, IMAGE), (301, VIDEO)):
        parts += [arrow((570, y), (585, y)), *tokens(592, y - 6, colour)]
    parts += ['<text x="636" y="100" class="small">features of hidden tokens</text>']
    parts += ['<text x="636" y="273" class="small">predictions of them</text>']
    for y in (61, 139, 237, 301):
        parts.append(arrow((684, y), (724, y), (724, 187), (765, 187)))
    parts += box(770, 160, 140, CLIP, "loss", "a sum over teachers")
    marker = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
            "<title>Masked Video Distillation: frozen teachers see the whole clip, the student a tenth of its tokens</title>",
            f"<style>{STYLE}</style>",
            f'<defs>{marker}<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
