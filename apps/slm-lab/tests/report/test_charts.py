"""Charts: scales, tick labels, positions of names, and the SVG."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_lab.report.axes import bytes_label, decimal_labels, fit_scale, short_label
from slm_lab.report.charts import HEIGHT, WIDTH, Frame, Line, Point, line_chart, scatter_chart
from slm_lab.report.label_placement import DETAIL_HEIGHT, LETTER_WIDTH, LINE_HEIGHT, Name, spread_out

SVG = "{http://www.w3.org/2000/svg}"
FRAME = Frame("Curves <of> all", "lora & others", "steps", "bits", "curves")
values = st.floats(-1e6, 1e6)
sizes = st.floats(1, 1e10)


def parse(svg: str) -> xml.Element:
    return xml.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def find_texts(svg: str, css_class: str) -> list[xml.Element]:
    return [text for text in parse(svg).iter(f"{SVG}text") if css_class in str(text.get("class")).split()]


@given(st.lists(values, min_size=1, max_size=8))
@example([5e-324])
@example([0.0, 5e-324])
def test_all_values_and_a_few_round_ticks_lie_on_a_scale(numbers: list[float]) -> None:
    scale = fit_scale(numbers, 300, 10)
    assert all(10 - 1e-6 <= scale(value) <= 300 + 1e-6 for value in numbers)
    assert 2 <= len(scale.ticks) <= 9
    assert all(10 - 1e-6 <= scale(tick) <= 300 + 1e-6 for tick in scale.ticks)


@given(st.lists(sizes, min_size=1, max_size=8))
def test_a_logarithmic_scale_contains_its_values_and_at_least_two_ticks(numbers: list[float]) -> None:
    scale = fit_scale(numbers, 50, 400, log=True)
    assert all(50 <= scale(value) <= 400 for value in numbers)
    assert len(scale.ticks) >= 2
    assert all(scale.low <= tick <= scale.high * (1 + 1e-9) for tick in scale.ticks)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_names_keep_their_distance_and_their_order(preferred: list[float]) -> None:
    positions = spread_out(preferred, LINE_HEIGHT, 0, 300)
    order = sorted(range(len(preferred)), key=lambda index: preferred[index])
    gaps = [positions[b] - positions[a] for a, b in pairwise(order)]
    assert all(gap >= LINE_HEIGHT - 1e-9 for gap in gaps)
    assert max(positions) <= 300 + 1e-9


def test_names_with_enough_space_are_not_moved() -> None:
    assert spread_out([200, 20, 100], LINE_HEIGHT, 0, 300) == [200, 20, 100]


@pytest.mark.parametrize(("value", "text"), [(950, "950"), (1200, "1.2k"), (3_000_000, "3M"), (0, "0")])
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert short_label(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(6.5e8, "650 MB"), (1.175e9, "1.175 GB"), (1.2e9, "1.2 GB"), (250_000, "250 kB"), (0, "0 B")]
)
def test_sizes_on_an_axis_are_not_rounded_to_other_values(value: float, text: str) -> None:
    assert bytes_label(value) == text


@pytest.mark.parametrize("ticks", [[1.0, 1.05, 1.1], [0.2, 0.4], [10.0, 20.0], [1.0, 1.25, 1.5], [1.002, 1.004]])
def test_tick_labels_have_just_enough_decimals_to_differ(ticks: list[float]) -> None:
    labels = [decimal_labels(ticks)(tick) for tick in ticks]
    assert [float(label) for label in labels] == pytest.approx(ticks)
    assert len(labels) == len(set(labels))


def test_two_seeds_of_a_mode_have_one_name_beside_their_ends() -> None:
    lines = [
        Line(Name(f"mode {color}", "r=1 · 24k"), color, ((0, 2.0), (8, 1 + color / 100))) for color in (0, 1, 2, 2)
    ]
    names = find_texts(line_chart(FRAME, lines), "name")
    assert [name.text for name in names] == ["mode 0", "mode 1", "mode 2"]
    heights = sorted(float(str(name.get("y"))) for name in names)
    assert all(b - a >= LINE_HEIGHT + DETAIL_HEIGHT - 0.2 for a, b in pairwise(heights))
    assert all(float(str(name.get("x"))) + LETTER_WIDTH * len(str(name.text)) <= WIDTH for name in names)


@given(st.lists(st.tuples(sizes, st.floats(0.5, 3)), min_size=1, max_size=5), st.booleans())
def test_points_lie_within_the_chart_and_each_has_its_name(positions: list[tuple[float, float]], log: bool) -> None:
    points = [
        Point(Name(f"mode-{index}"), index, x, y, y - 0.1, y + 0.1, "description")
        for index, (x, y) in enumerate(positions)
    ]
    svg = scatter_chart(FRAME, points, log=log, x_text=short_label)
    dots = list(parse(svg).iter(f"{SVG}circle"))
    assert len(dots) == len(points)
    assert all(0 <= float(str(dot.get("cx"))) <= WIDTH and 0 <= float(str(dot.get("cy"))) <= HEIGHT for dot in dots)
    assert sorted(str(name.text) for name in find_texts(svg, "name")) == sorted(point.name.text for point in points)


@pytest.mark.parametrize("detail", ["", "r=1 · 24.6k"])
@pytest.mark.parametrize(
    "positions",
    [
        {"lora": (1000, 1.2), "qlora": (1001, 1.2), "other": (1002, 1.2)},
        {"butterfly": (24_576, 1.90), "lora": (24_576, 1.901), "dora": (38_400, 1.905), "oft": (16_128, 2.0)},
        {"butterfly_block": (21_504, 1.96), "butterfly": (24_576, 1.94), "lora": (4e5, 1.64), "baseline": (5e6, 1.49)},
    ],
)
def test_neighbouring_points_have_names_that_do_not_overlap(
    positions: dict[str, tuple[float, float]], detail: str
) -> None:
    names = [Name(name, detail) for name in positions]
    points = [Point(name, 0, x, y, y, y, "") for name, (x, y) in zip(names, positions.values(), strict=True)]
    texts = find_texts(scatter_chart(FRAME, points, log=True, x_text=short_label), "name")
    boxes = [_box(text, name) for text, name in zip(texts, names, strict=True)]
    assert not any(_overlap(box, other) for index, box in enumerate(boxes) for other in boxes[index + 1 :])


def test_a_name_that_is_too_long_keeps_the_number_of_parameters() -> None:
    name = Name("butterfly_block", "quality stages=12 block_size=256 · 24.6k").shorten(150)
    assert name.width <= 150
    assert name.detail.startswith("quality")
    assert name.detail.endswith("… · 24.6k")


def test_a_chart_has_a_title_and_description_for_screen_readers_and_escapes_names() -> None:
    root = parse(line_chart(FRAME, [Line(Name("<b>&"), 0, ((0, 1.0), (1, 0.5)))]))
    texts = {child.get("id"): child.text for child in root}
    assert [texts[key] for key in str(root.get("aria-labelledby")).split()] == ["Curves <of> all", "lora & others"]
    assert root.get("role") == "img"


def _box(text: xml.Element, name: Name) -> tuple[float, float, float, float]:
    x, top = float(str(text.get("x"))), float(str(text.get("y"))) - LINE_HEIGHT + 4
    return x, top, x + name.width, top + name.height


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]
