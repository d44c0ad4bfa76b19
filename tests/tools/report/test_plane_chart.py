"""Names in the plane stand beside their points and not on one another."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import pytest

from mvd_ds.tools.report.plane_chart import LINE_HEIGHT, Box, Cross, Point, place_names, plane_chart

SVG_TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.mark.parametrize("places", [[(50.0, 50.0)], [(50.0, 50.0), (52.0, 51.0), (51.0, 52.0)], [(2.0, 2.0), (198.0, 198.0)]])
def test_names_stand_near_their_points_inside_and_apart(places: list[tuple[float, float]]) -> None:
    names = [f"model {number}" for number in range(len(places))]
    crosses = [Cross(x, y, Box(x - 6, y - 6, x + 6, y + 6)) for x, y in places]
    boxes = place_names(names, crosses, 200.0, 200.0)
    for (x, y), box in zip(places, boxes, strict=True):
        away = max(box.left - x, x - box.right, 0) + max(box.bottom - y, y - box.top, 0)
        assert away <= 40 and box.within(200.0, 200.0)
        assert box.top - box.bottom == pytest.approx(LINE_HEIGHT)
        assert not any(box.meets(other) for cross in crosses for other in cross.boxes()), "a name lies on a cross"
    assert not any(one.meets(other) for one, other in itertools.combinations(boxes, 2))


def test_a_name_alone_stands_right_beside_its_point() -> None:
    (box,) = place_names(["a"], [Cross(50.0, 50.0, Box(47.0, 45.0, 53.0, 55.0))], 200.0, 200.0)
    assert 0 < box.left - 53.0 < 5.0 and (box.bottom + box.top) / 2 == pytest.approx(50.0)


def test_every_name_and_both_axes_are_drawn() -> None:
    at = enumerate((30.0, 30.0, 30.1, 33.0))
    points = [Point(f"model <{place}>", 60.0, y, (59.0, 61.0), (y - 1, y + 1), "calm") for place, y in at]
    chart = plane_chart(points, (10.0, None), ("what", "how"))
    words = {text.text for text in ElementTree.fromstring(chart).iter(SVG_TEXT)}
    assert {point.name for point in points} | {"“what”, held-out top-1 (%)", "“how”, held-out top-1 (%)"} <= words
