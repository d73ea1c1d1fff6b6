"""The page: its content, that it is self-contained, and its layout in a browser."""

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
from slm_lab.report.files import write_report
from slm_lab.report.html_page import render_page
from slm_lab.results.comparison import Comparison
from slm_lab.results.mode_results import ModeResults
from slm_testing.lab.made_runs import write_run

MakeMode = Callable[..., ModeResults]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
STYLE = resources.files("slm_lab").joinpath("report", "template", "style.css").read_text()
HOSTILE = '<script>alert("x")</script>&"\''


class ParsedPage(HTMLParser):
    """The tags of a page with their attributes, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.visible_text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.visible_text += data if self.cdata_elem is None else ""

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_has_each_mode_each_figure_and_each_text(all_modes: Comparison) -> None:
    parsed = ParsedPage(render_page(all_modes))
    headers = [head for head in parsed.attributes("th") if head.get("scope") == "col"]
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
        assert part in parsed.visible_text, part
    assert len(parsed.attributes("svg")) == 3
    assert [parsed.visible_text.count(f"Once upon a {mode.name}.") for mode in all_modes.modes] == [1] * 5
    assert "Best quality: baseline (5,000,000 parameters)" in parsed.visible_text


def test_the_best_value_of_a_row_is_marked_in_words_and_not_by_colour_alone(all_modes: Comparison) -> None:
    pattern = r'<td class="best"><span class="value">([^<]+)</span><span class="visually-hidden"> \(best\)'
    best = re.findall(pattern, render_page(all_modes))
    assert "1.1100" in best
    assert "20,000" in best
    assert "21.6 MB" not in best  # weights are the same for all


def test_the_page_loads_nothing_else(all_modes: Comparison) -> None:
    text = render_page(all_modes)
    parsed = ParsedPage(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    assert not [key for _, attributes in parsed.tags for key in attributes if key in ("src", "href") or key[:2] == "on"]
    assert not re.search(r"https?:|url\(|@import", text)
    policy = [meta for meta in parsed.attributes("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert [str(meta["content"]).split(";")[0] for meta in policy] == ["default-src 'none'"]


def test_texts_from_run_folders_are_escaped(make_mode: MakeMode) -> None:
    hostile = {"base": HOSTILE, "dataset": HOSTILE, "device": {"name": HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    hostile |= {"samples": {"before": HOSTILE, "after": f"{HOSTILE} on"}}
    hostile |= {"arguments": {"prompt": HOSTILE, "max_steps": 8}}
    mode = make_mode("lora", 1.2, **hostile)
    renamed = ModeResults(HOSTILE, mode.results, mode.spreads)
    parsed = ParsedPage(render_page(Comparison((renamed,), {HOSTILE: HOSTILE})))
    assert not parsed.attributes("script")
    assert parsed.visible_text.count(HOSTILE) >= 8


def test_texts_during_training_are_a_strip_for_each_mode_and_prompts_are_grouped(tmp_path: Path) -> None:
    prompts = ["<Zog> said", "One day"]
    texts = {when: [{"prompt": p, "text": f"{p} {when}"} for p in prompts] for when in ("before", "after", "during")}
    for name in ("lora", "butterfly"):
        folder = write_run(tmp_path / name, name, samples={when: texts[when] for when in ("before", "after")})
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 1200, "samples": texts["during"]}) + "\n")
    assert main(["page", str(tmp_path)]) == 0
    parsed = ParsedPage((tmp_path / "compare.html").read_text())
    strips = [attributes for attributes in parsed.attributes("ol") if attributes.get("class") == "strip"]
    assert [strip["tabindex"] for strip in strips] == ["0", "0"]
    assert [parsed.visible_text.count(f"{prompt} during") for prompt in prompts] == [2, 2]
    assert parsed.visible_text.count("step 1,200") == 2
    assert len(parsed.attributes("article")) == 2 * 3  # the base and two modes for each prompt
    (first, _) = json.loads((tmp_path / "compare.json").read_text())["modes"]
    assert first["runs"][0]["samples_during_training"] == [{"step": 1200, "samples": texts["during"]}]


def test_a_variant_is_named_with_its_options_and_parameters(tmp_path: Path) -> None:
    for folder, label in (("lora-r4", "lora r=4"), ("lora-r4-seed43", "lora r=4"), ("old", "")):
        write_run(tmp_path / "here" / folder)
        (tmp_path / "here" / folder / "lab.json").write_text(json.dumps({"argv": [], "label": label}))
    assert main(["page", str(tmp_path)]) == 0
    named = {mode["name"]: mode["label"] for mode in json.loads((tmp_path / "compare.json").read_text())["modes"]}
    assert named == {"here/lora-r4": "here/lora r=4", "here/old": "here/old"}
    text = ParsedPage((tmp_path / "compare.html").read_text()).visible_text
    assert "r=4 · 400k" in text
    assert "here/lora r=4 (400,000 parameters)" in text


def test_axes_say_which_direction_is_better(all_modes: Comparison) -> None:
    text = ParsedPage(render_page(all_modes)).visible_text
    assert text.count("held-out bits per byte (lower is better)") == 3
    assert "trainable parameters (fewer are better)" in text
    assert "peak memory (less is better)" in text


def test_a_page_without_finished_runs_says_so(tmp_path: Path) -> None:
    text = render_page(Comparison((), {"qlora": "it needs bitsandbytes"}))
    assert "No run has finished yet." in text
    assert "it needs bitsandbytes" in text


def test_ids_are_unique_and_all_references_have_a_target(all_modes: Comparison) -> None:
    parsed = ParsedPage(render_page(all_modes))
    ids = [str(attributes["id"]) for _, attributes in parsed.tags if "id" in attributes]
    references = " ".join(str(a["aria-labelledby"]) for _, a in parsed.tags if "aria-labelledby" in a).split()
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_colour_has_enough_contrast_on_every_background(scheme: int) -> None:
    """WCAG AA requires a contrast of 4.5."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+);", blocks[scheme]))
    for background in ("paper", "sheet"):
        for text in ("ink", "soft", "accent", "alarm", *(f"c{number}" for number in range(6))):
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
    assert contrast(colours["accent"], colours["mark"]) >= 4.5


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


MEASURE = """
<!doctype html><body><script>
const widths = [360, 768, 1280], measured = {};
for (const width of widths) {
  const frame = document.createElement('iframe');
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.src = 'compare.html';
  frame.onload = () => {
    const page = frame.contentDocument, heights = [...page.querySelectorAll('svg text')].map(
      text => text.getBoundingClientRect().height);
    measured[width] = {
      pageWidth: page.documentElement.scrollWidth,
      tableWidth: page.querySelector('.scroll').scrollWidth,
      outside: [...page.querySelectorAll('svg text')].filter(text => {
        const box = text.getBoundingClientRect(), chart = text.ownerSVGElement.getBoundingClientRect();
        return box.left < chart.left - 1 || box.right > chart.right + 1;
      }).map(text => text.textContent),
      covered: [...page.querySelectorAll('svg .label')].filter(label => {
        const box = label.getBoundingClientRect(), chart = label.ownerSVGElement;
        return [...chart.querySelectorAll('.tick')].map(tick => tick.getBoundingClientRect()).some(tick =>
          tick.left < box.right && box.left < tick.right && tick.top < box.bottom && box.top < tick.bottom);
      }).map(label => label.textContent),
      textHeight: Math.min(...heights),
    };
    document.body.dataset.measured = JSON.stringify(measured);
  };
  document.body.append(frame);
}
</script></body>
"""


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: none of chromium, google-chrome is on PATH")
def test_in_a_browser_the_page_does_not_scroll_sideways_and_charts_are_legible(
    all_modes: Comparison, tmp_path: Path
) -> None:
    write_report(all_modes, tmp_path)
    (tmp_path / "measure.html").write_text(MEASURE)
    flags = "--headless=new --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=5000"
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *flags.split(), profile, "--dump-dom", (tmp_path / "measure.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    (body,) = ParsedPage(dom).attributes("body")
    measured = json.loads(str(body["data-measured"]))
    assert all(page["pageWidth"] <= int(width) for width, page in measured.items()), measured
    assert measured["360"]["tableWidth"] > 360  # the table scrolls in its own box
    assert all(not page["covered"] for page in measured.values()), measured
    assert all(not page["outside"] and page["textHeight"] >= 9 for page in measured.values()), measured


def test_the_page_is_rebuilt_from_folders_of_other_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "here" / "lora", "lora")
    write_run(tmp_path / "gpu" / "lora", "lora", bits=1.1, device={"name": "H100", "threads": 8})
    write_run(tmp_path / "late", "baseline", status="running", evaluation={})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text("{")
    assert main(["page", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "late is left out: it has not finished (status: interrupted)" in output
    assert "bad is left out: run.json: it is not valid JSON" in output
    figures = json.loads((tmp_path / "compare.json").read_text())
    assert [mode["name"] for mode in figures["modes"]] == ["gpu/lora", "here/lora"]
    assert any("different devices" in caveat for caveat in figures["caveats"])
    assert "different devices" in (tmp_path / "compare.html").read_text()


def test_a_folder_without_runs_has_no_page(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "there is no run folder" in refused("page", tmp_path)
    assert "does not exist" in refused("page", tmp_path / "gone")
    assert not [*tmp_path.iterdir()]


def test_scores_of_tasks_stand_beside_the_bases_and_seeds_give_a_range(tmp_path: Path) -> None:
    for name, value in (("lora", 0.5), ("lora-seed43", 0.25), ("butterfly", 0.75)):
        folder = write_run(tmp_path / name, name.partition("-")[0])
        score = {"task": HOSTILE, "metric": "acc", "value": value, "stderr": 0.1, "higher_is_better": True}
        base = {"tasks": {"t": {"scores": [score | {"value": 0.125}]}}}
        content = {"format": 1, "tasks": {"t": {"scores": [score]}}, "base": base}
        (folder / "eval.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["page", str(tmp_path)]) == 0
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    text = " ".join(ParsedPage(page).visible_text.split())
    assert "acc ↑ 0.1250 ± 0.1000 0.37500.2500 to 0.5000 0.7500 ± 0.1000" in text  # the range is in small type
    assert HOSTILE not in page
    figures = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    runs = [entry for mode in figures["modes"] for entry in mode["evaluations"]]
    assert [(entry["run"], entry["scores"][0]["value"]) for entry in runs] == [
        ("lora", 0.5), ("lora-seed43", 0.25), ("butterfly", 0.75)
    ]  # fmt: skip
