"""The report says what the scores say, opens anywhere and says what it lacks."""

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipelines import cli, tracking
from pipelines.config import validate
from pipelines.report_chart import line_chart
from pipelines.report_origin import thinned, without_secrets
from pipelines.sections import Source
from rtnet.data.clip import write_clip
from rtnet.data.images import decode_image, decode_mask, encode_jpeg, overlay
from tests.evaluations import write_evaluation, write_masks

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("drift", "<b>\"schön\" & 'grün'", "turn")
FRAMES = 9
SIZE = (48, 84)


def _shifted(truth: np.ndarray, place: int) -> np.ndarray:
    return np.roll(truth, place, axis=1).astype(np.float64)


def _noisy(truth: np.ndarray, place: int) -> np.ndarray:
    noise = np.random.default_rng(place).random(truth.shape)
    return np.asarray(0.55 * truth + 0.45 * noise)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of a clip with a name that could do harm: `shifted`, of masks alone, and `noisy`, with maps."""
    root = tmp_path_factory.mktemp("report")
    write_clip(root / "clip", {"train": ["other"], "val": NAMES}, frames=FRAMES, height=SIZE[0], width=SIZE[1])
    for name, method in (("shifted", _shifted), ("noisy", _noisy)):
        write_masks(root / name, _sources(root), method)
        maps = root / name / "maps" if name == "noisy" else None
        write_evaluation(root / f"{name} scores", name, _sources(root), root / name / "masks", maps)
    return root


def _sources(root: Path, sequences: list[str] | None = None) -> dict[str, Source]:
    return {"clip": Source(layout="davis16", path=str(root / "clip"), sequences=sequences)}


@pytest.fixture(scope="module")
def report(made: Path) -> Path:
    assert cli.main(["report", *_places(made), "--output", str(made / "out" / "report.html")]) == 0
    return made / "out" / "report.html"


def _places(root: Path) -> list[str]:
    return [str(root / "shifted scores"), str(root / "noisy scores" / "scores.json")]


def _scores(root: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((root / f"{name} scores" / "scores.json").read_text()))


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()  # what the test's own preparations said, such as MLflow of a new store
    assert cli.main(["report", *arguments]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    return told


def _changed(root: Path, target: Path, name: str, **facts: Any) -> str:
    """A copy of an evaluation that says something else."""
    target.mkdir(parents=True)
    (target / "scores.json").write_text(json.dumps(_scores(root, name) | facts))
    return str(target)


def _table(html: str, row: str) -> list[str]:
    """The cells, as texts, of the row of this name in the table of sequences."""
    table = html.split('<table id="scores">')[1].split("</table>")[0]
    for line in re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", table, re.DOTALL):
        cells = [unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.split(r"</t[hd]>", line)]
        if cells[0].strip() == row:
            return [cell.strip() for cell in cells[1:-1]]
    raise AssertionError(f"no row {row}")


def test_the_table_has_every_sequence_and_the_set_with_differences(made: Path, report: Path) -> None:
    html, shifted, noisy = report.read_text(), _scores(made, "shifted"), _scores(made, "noisy")
    for name, first, second in zip([*NAMES, "set"], shifted["scores"], noisy["scores"], strict=True):
        cells = _table(html, name)
        region = (first["J mean"], second["J mean"])
        contour = (first["F mean"], second["F mean"])
        both = tuple(np.mean([region, contour], axis=0))
        for place, (a, b) in enumerate((both, region, contour)):
            told = [float(cell.replace("\N{MINUS SIGN}", "-")) for cell in cells[3 * place : 3 * place + 3]]
            assert told == pytest.approx([a, b, b - a], abs=5.1e-4)


def test_the_page_holds_the_values_of_every_scored_frame(made: Path, report: Path) -> None:
    embedded = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert embedded is not None
    data = json.loads(embedded[1])
    assert data["labels"] == ["shifted", "noisy"]
    for sequence in data["sequences"]:
        for number, label in enumerate(data["labels"]):
            frames = _scores(made, label)["frames"][sequence["sequence"]]
            assert sequence["frames"] == list(frames)
            for key in "JF":
                assert sequence[key][number] == pytest.approx([each[key] for each in frames.values()], abs=5.1e-4)


def test_the_worst_frames_are_shown_as_overlays_of_mask_or_map_and_annotation(made: Path, report: Path) -> None:
    html = report.read_text()
    scores = _scores(made, "shifted")["frames"]["drift"]
    worst = min(scores, key=lambda name: scores[name]["J"])
    pictures = re.findall(rf'src="data:image/jpeg;base64,([^"]+)" alt="Mask of (\w+) [^"]* {worst} of drift"', html)
    assert [label for _, label in pictures] == ["shifted", "noisy"]
    clip = made / "clip"
    image = decode_image((clip / "JPEGImages" / "480p" / "drift" / f"{worst}.jpg").read_bytes())
    truth = decode_mask((clip / "Annotations" / "480p" / "drift" / f"{worst}.png").read_bytes())
    for data, label in pictures:
        file = f"drift/{worst}.png"
        mask = decode_mask((made / label / "masks" / file).read_bytes())
        levels = decode_image((made / label / "maps" / file).read_bytes())[..., 0] if label == "noisy" else None
        assert base64.b64decode(data) == encode_jpeg(overlay(image, mask, truth, levels), 80)


def test_a_report_stays_small_and_says_how_many_frames_it_leaves_out(made: Path, report: Path) -> None:
    count = len(re.findall(r'<div class="worst">', report.read_text()))
    frames = len(NAMES) * (FRAMES - 2)
    assert f"{count} of {frames} scored frames are shown, {frames - count} are left out" in report.read_text()
    assert report.stat().st_size < 1e6


def test_evaluations_of_other_annotations_or_rules_are_said_to_differ(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _changed(made, tmp_path / "other", "noisy", content="another", rule="annotated")
    assert cli.main(["report", _places(made)[0], other, "--output", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text()
    for words in ("The scored frames or their annotations differ", "The rules for which frames count differ"):
        assert words in html
        assert words in capsys.readouterr().out or words.startswith("The rules")


def test_the_set_is_the_mean_over_the_sequences_that_all_evaluations_scored(made: Path, tmp_path: Path) -> None:
    few = _sources(made, [NAMES[0], NAMES[1]])
    part = write_evaluation(tmp_path / "part", "part", few, made / "noisy" / "masks", None)
    assert cli.main(["report", _places(made)[0], str(part), "--output", str(tmp_path / "r.html")]) == 0
    html, rows = (tmp_path / "r.html").read_text(), _scores(made, "shifted")["scores"]
    assert "Only 2 of 3 sequences were scored in all evaluations" in html
    assert float(_table(html, "set")[3]) == pytest.approx((rows[0]["J mean"] + rows[1]["J mean"]) / 2, abs=5.1e-4)
    assert _table(html, "turn")[4:6] == ["\N{EN DASH}"] * 2


def test_pictures_that_are_gone_are_said_in_the_report(made: Path, tmp_path: Path) -> None:
    gone = _changed(made, tmp_path / "gone", "shifted", masks=str(tmp_path / "nowhere"))
    assert cli.main(["report", gone, "--output", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text()
    assert f"{tmp_path / 'nowhere'}/drift/" in html
    assert "is no longer there" in html
    assert "data:image/jpeg" not in html


def test_one_evaluation_alone_has_a_report_without_differences(made: Path, tmp_path: Path) -> None:
    assert cli.main(["report", _places(made)[0], "--output", str(tmp_path / "r.html")]) == 0
    html = (tmp_path / "r.html").read_text()
    assert "difference</th>" not in html
    assert len(_table(html, "drift")) == len(_scores(made, "shifted")["scores"][0]) - 2 + 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "scores.json").unlink(), "holds no scores.json"),
        (lambda folder: (folder / "scores.json").write_text('{"name": '), "damaged"),
        (lambda folder: (folder / "scores.json").write_text("[1]"), "damaged"),
        (lambda folder: (folder / "scores.json").write_text('{"name": "x"}'), "run `rtnet evaluate` again"),
        (lambda folder: _edit(folder, lambda scores: scores["frames"].popitem()), "not of the same sequences"),
        (lambda folder: _edit(folder, lambda scores: scores["scores"][0].pop("J mean")), "has no J or F"),
    ],
)
def test_what_is_no_evaluation_is_refused_in_one_line(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    told: str,
) -> None:
    folder = Path(_changed(made, tmp_path / "evaluation", "noisy"))
    damage(folder)
    line = _refused(capsys, _places(made)[0], str(folder), "--output", str(tmp_path / "r.html"))
    assert told in line
    assert str(folder) in line
    assert not (tmp_path / "r.html").exists()


def _edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    change(scores)
    (folder / "scores.json").write_text(json.dumps(scores))


def test_evaluations_that_share_nothing_and_one_named_twice_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_masks(tmp_path, _sources(made), _shifted, "train")
    other = write_evaluation(tmp_path / "other", "other", _sources(made), tmp_path / "masks", None, "train")
    assert "have no sequence in common" in _refused(capsys, _places(made)[0], str(other))
    assert "named twice" in _refused(capsys, _places(made)[0], f"{_places(made)[0]}/scores.json")


def test_an_output_that_cannot_be_written_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "r.html", tmp_path):
        assert f"{target} can't be written" in _refused(capsys, _places(made)[0], "--output", str(target))


def _tracked(root: Path) -> tracking.Run:
    sections = {
        "name": "toy",
        "storage": str(root / "runs"),
        "data": {"sources": {"clip": {"layout": "davis16", "path": "clip"}}, "dataset": "none"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
    }
    return tracking.start_run(validate(sections, "test"), "toy", tags={"dataset.digest": "d1937"})


def test_curves_origin_and_logging_come_from_the_tracked_run(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _tracked(tmp_path)
    for epoch in range(1, 4):
        values = {"train/appearance": 1 / epoch, "validation/J": epoch / 5, "validation/F": 0.5, "rate": 0.1**epoch}
        run.log_metrics(values, epoch)
    model = {"uri": "/weights.safetensors", "run_id": run.run_id, "tracking": run.uri}
    named = {"tracking": run.uri, "run_id": run.run_id}
    place = _changed(made, tmp_path / "evaluation", "noisy", model=model, run=named)
    target = tmp_path / "r.html"
    assert cli.main(["report", place, "--output", str(target)]) == 0
    html = target.read_text()
    for title in ("loss, appearance", "validation, J", "validation, F", "learning rate"):
        assert f"<b>{title}</b>" in html
    assert "noisy ends at 0.6" in html
    for fact in ("d1937", run.run_id, "torch", "name: toy"):
        assert fact in html
    kept = tracking.fetch(run.uri, f"runs:/{run.run_id}/report/r.html", tmp_path)
    assert kept.read_bytes() == target.read_bytes()

    target.unlink()
    (tmp_path / "runs" / "mlflow.db").unlink()
    told = _refused(capsys, place, "--output", str(target))
    assert f"{target} is written, but not logged" in told
    assert "no MLflow store at" in target.read_text()


def test_curves_are_thinned_and_keep_their_ends() -> None:
    series = [(float(x), float(x)) for x in range(1000)]
    kept = thinned(series, 100)
    assert (len(kept), kept[0], kept[-1]) == (100, series[0], series[-1])
    assert kept == sorted(set(kept) & set(series))


def test_a_chart_is_drawn_of_one_point_of_equal_values_and_without_those_that_are_not_finite() -> None:
    chart = line_chart("x", {("a", 0): [(1, 2.0)], ("b", 1): [(0, 2.0), (1, float("nan")), (2, 2.0)]}, "epoch")
    assert [line.path for line in chart.lines] == ["M500.0 100.0h.1", "M0.0 100.0L1000.0 100.0"]
    assert [tick.label for tick in chart.rows] == ["2"]


def test_passwords_in_uris_are_not_passed_on() -> None:
    assert without_secrets("uri: https://me:secret@host/x, s3://bucket") == "uri: https://...@host/x, s3://bucket"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine: the report was not opened in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator["Page"]:
    """The report, opened on a desktop; it has neither complained nor asked for another file when the test ends."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.extend([request.url] * (not request.url.startswith("data:"))))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert complaints == [report.as_uri()]


def _order(page: "Page") -> list[str]:
    return [name.strip() for name in page.locator("#scores tbody.sorted th").all_inner_texts()]


def test_the_page_renders_names_as_text_and_pictures(page: "Page") -> None:
    assert _order(page) == list(NAMES)
    assert page.title() == "shifted against noisy: RTNet report"
    assert page.locator("#scores b").count() == 0
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_sorting_by_a_column_and_by_name_works(made: Path, page: "Page") -> None:
    first, second = (_scores(made, label)["scores"] for label in ("shifted", "noisy"))
    change = [b["J mean"] - a["J mean"] for a, b in zip(first, second, strict=True)]
    rising = [name for _, name in sorted(zip(change, NAMES, strict=False))]
    button = page.get_by_role("button", name="J mean, noisy: difference, sort")
    button.click()
    assert _order(page) == rising[::-1]
    button.click()
    assert _order(page) == rising
    assert page.locator('#scores th[aria-sort="ascending"]').count() == 1
    page.get_by_role("button", name="sequence").click()
    assert _order(page)[1:] == ["drift", "turn"]
    assert page.locator("#scores tbody.set th").inner_text() == "set"


def test_choosing_a_sequence_shows_its_lines_and_reads_their_values(made: Path, page: "Page") -> None:
    shown = page.locator(".frames:visible h3")
    assert shown.all_inner_texts() == ["drift"]
    page.get_by_label("Sequence", exact=True).select_option(label="turn")
    assert shown.all_inner_texts() == ["turn"]
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    assert shown.all_inner_texts() == [NAMES[1]]
    plot = page.locator(".frames:visible .plot").first
    assert plot.locator("path").count() == 2
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    values = [_scores(made, label)["frames"][NAMES[1]]["00002"]["J"] for label in ("shifted", "noisy")]
    told = f"frame 00002: shifted {values[0]:.3f}, noisy {values[1]:.3f}"
    assert page.locator(".frames:visible .readout").first.inner_text() == told
    page.locator(".frames:visible summary").click()
    page.locator(".frames:visible table").wait_for()
    assert page.locator(".frames:visible table tr").count() == 1 + FRAMES - 2


def test_all_measures_are_there_when_asked_for(page: "Page") -> None:
    assert not page.get_by_role("columnheader", name="MAE", exact=True).is_visible()
    page.get_by_role("button", name="Show all measures").click()
    assert page.get_by_role("columnheader", name="MAE", exact=True).is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_tables_scroll_and_the_page_does_not(page: "Page", scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Show all measures").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("(e => e.scrollWidth > e.clientWidth)(document.getElementById('scores').parentElement)")
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(251, 250, 247)",
            "dark": "rgb(23, 24, 26)",
        }[scheme]
    )


def test_printed_or_without_scripts_all_sequences_are_shown(page: "Page", browser: Any, report: Path) -> None:
    page.emulate_media(media="print")
    assert page.locator(".frames:visible").count() == len(NAMES)
    plain = browser.new_page(java_script_enabled=False)
    plain.goto(report.as_uri())
    assert plain.locator(".frames:visible").count() == len(NAMES)
    assert plain.locator("button:visible").count() == 0
    plain.close()
