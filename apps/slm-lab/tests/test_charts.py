from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_lab.axes import apart, plain, scale, short
from slm_lab.charts import HEIGHT, LETTER, LINE, WIDTH, Frame, Line, Point, curves, scatter

SVG = "{http://www.w3.org/2000/svg}"
FRAME = Frame("Curves <of> all", "lora & others", "steps", "bits", "curves")
values = st.floats(-1e6, 1e6)
sizes = st.floats(1, 1e10)


def parsed(svg: str) -> xml.Element:
    return xml.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def texts(svg: str, kind: str) -> list[xml.Element]:
    return [text for text in parsed(svg).iter(f"{SVG}text") if kind in str(text.get("class")).split()]


@given(st.lists(values, min_size=1, max_size=8))
def test_every_value_lies_on_a_scale_and_so_do_its_few_round_ticks(given: list[float]) -> None:
    made = scale(given, 300, 10)
    assert all(10 - 1e-6 <= made(value) <= 300 + 1e-6 for value in given)
    assert 2 <= len(made.ticks) <= 9
    assert all(10 - 1e-6 <= made(tick) <= 300 + 1e-6 for tick in made.ticks)


@given(st.lists(sizes, min_size=1, max_size=8))
def test_a_scale_of_powers_has_its_values_and_at_least_two_ticks_within(given: list[float]) -> None:
    made = scale(given, 50, 400, log=True)
    assert all(50 <= made(value) <= 400 for value in given)
    assert len(made.ticks) >= 2
    assert all(made.low <= tick <= made.high * (1 + 1e-9) for tick in made.ticks)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_names_keep_apart_and_in_their_order(wanted: list[float]) -> None:
    placed = apart(wanted, LINE, 0, 300)
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(gap >= LINE - 1e-9 for gap in gaps)
    assert max(placed) <= 300 + 1e-9


def test_names_with_room_stay_where_they_are_wanted() -> None:
    assert apart([200, 20, 100], LINE, 0, 300) == [200, 20, 100]


@pytest.mark.parametrize(("value", "text"), [(950, "950"), (1200, "1.2k"), (3_000_000, "3M"), (0, "0")])
def test_numbers_of_an_axis_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize("ticks", [[1.0, 1.05, 1.1], [0.2, 0.4], [10.0, 20.0], [1.0, 1.25, 1.5], [1.002, 1.004]])
def test_ticks_are_told_apart_by_their_decimals_and_have_no_more(ticks: list[float]) -> None:
    said = [plain(ticks)(tick) for tick in ticks]
    assert [float(text) for text in said] == pytest.approx(ticks)
    assert len(said) == len(set(said))


def test_each_line_is_named_once_beside_its_end_though_it_has_two_seeds() -> None:
    lines = [Line(f"mode {place}", place, ((0, 2.0), (8, 1 + place / 100))) for place in (0, 1, 2, 2)]
    names = texts(curves(FRAME, lines), "name")
    assert [name.text for name in names] == ["mode 0", "mode 1", "mode 2"]
    heights = sorted(float(str(name.get("y"))) for name in names)
    assert all(b - a >= LINE - 0.2 for a, b in pairwise(heights))
    assert all(float(str(name.get("x"))) + LETTER * len(str(name.text)) <= WIDTH for name in names)


@given(st.lists(st.tuples(sizes, st.floats(0.5, 3)), min_size=1, max_size=5), st.booleans())
def test_points_lie_within_the_chart_and_each_has_its_name(given: list[tuple[float, float]], log: bool) -> None:
    points = [Point(f"mode-{at}", at, x, y, y - 0.1, y + 0.1, "says") for at, (x, y) in enumerate(given)]
    svg = scatter(FRAME, points, log=log, text=short)
    dots = list(parsed(svg).iter(f"{SVG}circle"))
    assert len(dots) == len(points)
    assert all(0 <= float(str(dot.get("cx"))) <= WIDTH and 0 <= float(str(dot.get("cy"))) <= HEIGHT for dot in dots)
    assert sorted(str(name.text) for name in texts(svg, "name")) == sorted(point.name for point in points)


@pytest.mark.parametrize(
    "given",
    [
        {"lora": (1000, 1.2), "qlora": (1001, 1.2), "other": (1002, 1.2)},
        {"butterfly_block": (21_504, 1.96), "butterfly": (24_576, 1.94), "lora": (4e5, 1.64), "baseline": (5e6, 1.49)},
    ],
)
def test_points_side_by_side_have_names_that_do_not_cover_each_other(given: dict[str, tuple[float, float]]) -> None:
    points = [Point(name, at, x, y, y, y, "") for at, (name, (x, y)) in enumerate(given.items())]
    boxes = [_box(name) for name in texts(scatter(FRAME, points, log=True, text=short), "name")]
    assert not any(_cross(one, other) for at, one in enumerate(boxes) for other in boxes[at + 1 :])


def test_a_chart_is_described_for_those_who_do_not_see_it_and_names_are_escaped() -> None:
    root = parsed(curves(FRAME, [Line("<b>&", 0, ((0, 1.0), (1, 0.5)))]))
    told = {child.get("id"): child.text for child in root}
    assert [told[key] for key in str(root.get("aria-labelledby")).split()] == ["Curves <of> all", "lora & others"]
    assert root.get("role") == "img"


def _box(name: xml.Element) -> tuple[float, float, float, float]:
    x, y = float(str(name.get("x"))), float(str(name.get("y")))
    return x, y - LINE + 4, x + LETTER * len(str(name.text)), y + 4


def _cross(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
