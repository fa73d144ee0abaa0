"""The README's picture of a report: two methods on generated clips, as a headless Chromium shows them.

    python -m experiments.report_picture docs/report.png

Both "methods" are drawn from the annotations: `blurred` gives soft maps that lag behind the object, `torn` masks that
lose parts of it.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from pipelines import cli
from pipelines.sections import Source
from rtnet.data.clip import write_clip
from tests.evaluations import write_evaluation, write_masks

_SIZE = (1000, 1120)  # of one half: the report's beginning, and its frames


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        report = _report(Path(scratch))
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]})
            page.goto(report.as_uri())
            page.evaluate("document.querySelector('#set .scroll').remove()")  # room for what follows
            halves = [_shot(page, section) for section in ("body", "#frames")]
            browser.close()
    both = Image.fromarray(np.hstack(halves))
    both.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def _report(root: Path) -> Path:
    names = ("paper boat", "red kite", "round stone", "leaf")
    write_clip(root / "clips", {"train": ["other"], "val": names}, frames=40, height=270, width=480)
    sources = {"clips": Source(layout="davis16", path=str(root / "clips"))}
    for name, method in (("blurred", _blurred), ("torn", _torn)):
        write_masks(root / name, sources, method)
        maps = root / name / "maps" if name == "blurred" else None
        write_evaluation(root / name, name, sources, root / name / "masks", maps)
    assert cli.main(["report", str(root / "blurred"), str(root / "torn"), "--output", str(root / "report.html")]) == 0
    return root / "report.html"


def _blurred(truth: np.ndarray, place: int) -> np.ndarray:
    lag = round(7 + 7 * np.sin(place / 5))
    return np.asarray(cv2.GaussianBlur(np.roll(truth, lag, axis=1).astype(np.float64), (0, 0), 5))


def _torn(truth: np.ndarray, place: int) -> np.ndarray:
    rng = np.random.default_rng(place // 6)
    holes = cv2.resize(rng.random((6, 10)), truth.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(truth & (holes > 0.01 * place + 0.1), np.float64)


def _shot(page: Page, section: str) -> np.ndarray:
    page.evaluate("s => document.querySelector(s).scrollIntoView({behavior: 'instant'})", section)
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


if __name__ == "__main__":
    main(*sys.argv[1:])
