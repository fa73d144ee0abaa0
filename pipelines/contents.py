"""What a prepared dataset holds, in words, and which of its rows show it best."""

from collections import Counter
from difflib import get_close_matches
from typing import Any

import numpy as np

from pipelines.dataset import PICTURES, Dataset
from pipelines.dataset_writer import read_provenance
from pipelines.storage import open_storage
from rtnet.errors import UserError

_KEY = ("dataset", "split", "sequence")
_SEQUENCES_ON_SHEET = 12
_FRAMES_ON_SHEET = 8


def print_sources(dataset: Dataset) -> None:
    """What each source holds, all of them together, and what was left out."""
    provenance = read_provenance(*open_storage(dataset.uri)) or {}
    print(dataset.uri)
    for name, split in dict.fromkeys(zip(dataset.column("dataset"), dataset.column("split"), strict=True)):
        rows = np.flatnonzero((dataset.column("dataset") == name) & (dataset.column("split") == split))
        source = provenance.get("sources", {}).get(name, {})
        print(f"{name}, {split}: {_summary(dataset, rows)}; from {source.get('path', '?')}")
    print(f"all: {_summary(dataset, np.arange(dataset.index.num_rows))}")
    for name, why in provenance.get("skipped", {}).items():
        print(f"left out: {name}: {why}")


def print_sequence(dataset: Dataset, rows: np.ndarray) -> None:
    """A sequence's frames, a line each."""
    first: dict[str, Any] = dataset.describe(int(rows[0]))
    print(f"{first['dataset']}/{first['split']}/{first['sequence']}: {_summary(dataset, rows)}")
    seen = [row for row in rows if dataset.column("view")[row] == first["view"]]
    for row in seen:
        entry = dataset.describe(int(row))
        mask = dataset.read(int(row)).annotation
        share = "not annotated" if mask is None else f"object on {100 * mask.mean():.1f} % of the pixels"
        flows = [d for d in ("forward", "backward") if entry[f"{d}_flow_size"]]
        print(f"  {entry['name']}: {entry['width']}x{entry['height']}, {share}, flow: {' and '.join(flows) or 'none'}")


def sequence_rows(dataset: Dataset, wanted: str) -> np.ndarray:
    """The rows, int64 (n,), of NAME, SPLIT/NAME or DATASET/SPLIT/NAME. Raises UserError for none and for several."""
    keys = list(zip(*(dataset.column(name) for name in _KEY), strict=True))
    names = {key: (key[2], "/".join(key[1:]), "/".join(key)) for key in dict.fromkeys(keys)}
    found = [key for key, forms in names.items() if wanted in forms]
    if not found:
        close = get_close_matches(wanted, {form for forms in names.values() for form in forms}, n=3, cutoff=0.5)
        hint = f"similar are {', '.join(close)}" if close else f"there are {', '.join(f[0] for f in names.values())}"
        raise UserError(f"{dataset.uri}: no sequence '{wanted}': {hint[:400]}")
    if len(found) > 1:
        raise UserError(f"'{wanted}' is the name of {', '.join(names[key][2] for key in found)}: say which")
    return np.array([row for row, key in enumerate(keys) if key == found[0]])


def one_frame_of_each(dataset: Dataset) -> list[int]:
    """The middle frame, as it is, of sequences evenly spread."""
    rows = np.flatnonzero(dataset.column("view") == "as_is")
    groups = [rows[dataset.groups(rows) == group] for group in np.unique(dataset.groups(rows))]
    places = np.linspace(0, len(groups) - 1, min(_SEQUENCES_ON_SHEET, len(groups))).round().astype(int)
    return [int(groups[place][len(groups[place]) // 2]) for place in places]


def frames_and_flips(dataset: Dataset, rows: np.ndarray) -> list[int]:
    """Frames evenly spread, then the middle one's other views."""
    views = dataset.column("view")[rows]
    seen = rows[views == views[0]]
    places = np.linspace(0, len(seen) - 1, min(_FRAMES_ON_SHEET, len(seen))).round().astype(int)
    middle = dataset.column("frame")[seen[len(seen) // 2]]
    others = rows[(dataset.column("frame")[rows] == middle) & (views != views[0])]
    return [int(row) for row in (*seen[places], *others)]


def _summary(dataset: Dataset, rows: np.ndarray) -> str:
    frames = {tuple(row) for row in zip(*(dataset.column(n)[rows] for n in (*_KEY, "frame")), strict=True)}
    annotated = rows[dataset.column("annotated")[rows]]
    with_mask = {tuple(r) for r in zip(*(dataset.column(n)[annotated] for n in (*_KEY, "frame")), strict=True)}
    sizes = sorted(set(zip(dataset.column("width")[rows], dataset.column("height")[rows], strict=True)))
    size = " to ".join(f"{w}x{h}" for w, h in dict.fromkeys((sizes[0], sizes[-1])))
    stored = sum(int(dataset.column(f"{name}_size")[rows].sum()) for name in PICTURES)
    estimators = Counter(str(name) for name in dataset.column("estimator")[rows] if name)
    flow = " and ".join(f"{name} ({count} views)" for name, count in estimators.items()) or "none"
    return (
        f"{len({frame[:3] for frame in frames})} sequences, {len(frames)} frames ({len(with_mask)} annotated), "
        f"{len(rows)} views, {size}, {stored / 2**20:.1f} MiB, flow: {flow}"
    )
