"""The page: what is in it, that it needs nothing else, and how it lies in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from slm_lab.cli import main
from slm_lab.comparison import Comparison
from slm_lab.figures import Mode
from slm_lab.files import write
from slm_lab.page import page

MakeRun, MakeMode = Callable[..., Path], Callable[..., Mode]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
STYLE = resources.files("slm_lab").joinpath("page", "style.css").read_text()
EVIL = '<script>alert("x")</script>&"\''


class Read(HTMLParser):
    """Tags with their attributes, and the text that shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.shown += data if self.cdata_elem is None else ""

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_has_each_mode_each_figure_and_each_text(five: Comparison) -> None:
    read = Read(page(five))
    headers = [head for head in read.attributes("th") if head.get("scope") == "col"]
    assert len(headers) == 5
    for part in (
        "1.1100",
        "1.1000 to 1.1200",
        "5,000,000",
        "92.59 %",
        "21.6 MB",
        "1.00 kB",
        "3.00 kB",
        "2,000",
        "4.0 s",
    ):
        assert part in read.shown, part
    assert len(read.attributes("svg")) == 3
    assert [read.shown.count(f"Once upon a {mode.name}.") for mode in five.modes] == [1] * 5
    assert "Best quality: baseline" in read.shown


def test_the_best_of_a_row_is_said_aloud_and_not_by_colour_alone(five: Comparison) -> None:
    found = re.findall(r'<td class="best"><span class="value">([^<]+)</span><span class="aloud"> \(best\)', page(five))
    assert "1.1100" in found
    assert "20,000" in found
    assert "21.6 MB" not in found  # weights are the same for all


def test_the_page_needs_nothing_but_itself(five: Comparison) -> None:
    text = page(five)
    read = Read(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in read.tags}
    assert not [key for _, attributes in read.tags for key in attributes if key in ("src", "href") or key[:2] == "on"]
    assert not re.search(r"https?:|url\(|@import", text)
    policy = [meta for meta in read.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [str(meta["content"]).split(";")[0] for meta in policy] == ["default-src 'none'"]


def test_what_comes_from_outside_is_text(make_mode: MakeMode) -> None:
    evil = {"base": EVIL, "dataset": EVIL, "device": {"name": EVIL}, "versions": {EVIL: EVIL}}
    evil |= {"samples": {"before": EVIL, "after": f"{EVIL} on"}, "arguments": {"prompt": EVIL, "max_steps": 8}}
    mode = make_mode("lora", 1.2, **evil)
    named = Mode(EVIL, mode.outcomes, mode.values)
    read = Read(page(Comparison((named,), {EVIL: EVIL})))
    assert not read.attributes("script")
    assert read.shown.count(EVIL) >= 8


def test_a_page_of_nothing_says_so(tmp_path: Path) -> None:
    text = page(Comparison((), {"qlora": "it needs bitsandbytes"}))
    assert "No run has come to its end yet." in text
    assert "it needs bitsandbytes" in text


def test_ids_are_unique_and_each_reference_has_one(five: Comparison) -> None:
    read = Read(page(five))
    ids = [str(attributes["id"]) for _, attributes in read.tags if "id" in attributes]
    references = " ".join(str(a["aria-labelledby"]) for _, a in read.tags if "aria-labelledby" in a).split()
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_text_is_read_on_every_ground(scheme: int) -> None:
    """WCAG AA: a contrast of 4.5."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+);", blocks[scheme]))
    for ground in ("paper", "sheet"):
        for text in ("ink", "soft", "accent", "alarm", *(f"c{number}" for number in range(6))):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["accent"], colours["mark"]) >= 4.5


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


MEASURE = """
<!doctype html><body><script>
const widths = [360, 768, 1280], found = {};
for (const width of widths) {
  const frame = document.createElement('iframe');
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.src = 'compare.html';
  frame.onload = () => {
    const page = frame.contentDocument, small = [...page.querySelectorAll('svg text')].map(
      text => text.getBoundingClientRect().height);
    found[width] = {
      wide: page.documentElement.scrollWidth,
      table: page.querySelector('.scroll').scrollWidth,
      outside: [...page.querySelectorAll('svg text')].filter(text => {
        const box = text.getBoundingClientRect(), around = text.ownerSVGElement.getBoundingClientRect();
        return box.left < around.left - 1 || box.right > around.right + 1;
      }).map(text => text.textContent),
      letters: Math.min(...small),
    };
    document.body.dataset.found = JSON.stringify(found);
  };
  document.body.append(frame);
}
</script></body>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: none of chromium, google-chrome is on PATH")
def test_in_a_browser_the_page_never_scrolls_sideways_and_charts_stay_legible(five: Comparison, tmp_path: Path) -> None:
    write(five, tmp_path)
    (tmp_path / "measure.html").write_text(MEASURE)
    flags = "--headless=new --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=5000"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *flags.split(), profile, "--dump-dom", (tmp_path / "measure.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (body,) = Read(dom).attributes("body")
    found = json.loads(str(body["data-found"]))
    assert all(seen["wide"] <= int(width) for width, seen in found.items()), found
    assert found["360"]["table"] > 360  # it scrolls in its own box
    assert all(not seen["outside"] and seen["letters"] >= 9 for seen in found.values()), found


def test_the_page_is_made_anew_from_folders_of_other_machines(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "here" / "lora", "lora")
    make_run(tmp_path / "gpu" / "lora", "lora", bits=1.1, device={"name": "H100", "threads": 8})
    make_run(tmp_path / "late", "baseline", status="running", evaluation={})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    assert main(["page", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "late is left out: it has not come to its end (its status: running)" in said
    assert "bad is left out: run.json: it is not valid JSON" in said
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert [mode["name"] for mode in figures["modes"]] == ["gpu/lora", "here/lora"]
    assert any("different devices" in caveat for caveat in figures["caveats"])
    assert "different devices" in (tmp_path / "compare.html").read_text()


def test_a_folder_without_runs_has_no_page(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "there is no run folder" in refused("page", tmp_path)
    assert "there is no folder" in refused("page", tmp_path / "gone")
    assert not [*tmp_path.iterdir()]
