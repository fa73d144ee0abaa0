"""Registered models in words: a list, one version with all that is known of it, two side by side."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from pipelines.lineage import Lineage, comparable, made_otherwise, scores_of
from pipelines.registry import ModelVersion

_SCORES = ("JF", "J", "F")
_SHOWN = ("model.", "training.", "seed", "validation.")
"""What of a recipe tells one training from another."""


def list_lines(versions: Iterable[ModelVersion]) -> Iterator[str]:
    """A row for each version."""
    rows = [("model", "version", "aliases", "created (UTC)", "run", "sha256")]
    for found in versions:
        row = (found.name, str(found.version), _aliases(found), _time(found), found.run_id[:8], found.digest[:12])
        rows.append(row)
    return table(rows)


def show_lines(model: ModelVersion, lineage: Lineage) -> Iterator[str]:
    """What it is, where it comes from, its recipe, data and scores."""
    # Scores have a table of their own, and what the tags of the version and its run both hold is said once.
    tags = {key: value for key, value in model.tags.items() if key not in _SCORES and not key.startswith("evaluation/")}
    facts = {
        "model": model.uri,
        "aliases": _aliases(model),
        "created": f"{_time(model)} UTC",
        "run": f"{model.run_id} ({lineage.run})" if lineage.run else model.run_id,
        "source": model.source,
        "sha256": model.digest,
        **dict(sorted(tags.items())),
        "started from": lineage.starts,
        "dataset": lineage.tags.get("dataset", ""),
        **{
            f"dataset {name}": f"{source['layout']} of {source['path']}, flow {source['estimator'] or 'none'}"
            for name, source in lineage.sources.items()
        },
        **_recipe(lineage),
    }
    yield from table(list(facts.items()))
    scores = scores_of(model, lineage)
    if not scores:
        yield "no evaluations"
        return
    yield ""
    rows: list[Sequence[str]] = [("evaluation", *_SCORES, "frames")]
    for name, facts_ in scores.items():
        rows.append((name, *(f"{facts_[score]:.4f}" for score in _SCORES), str(facts_.get("frames", ""))))
    yield from table(rows)


def compare_lines(first: tuple[ModelVersion, Lineage], second: tuple[ModelVersion, Lineage]) -> Iterator[str]:
    """What differs in recipe and data, and both scores with the difference."""
    (one, its), (other, theirs) = first, second
    rows: list[Sequence[str]] = [("", one.uri, other.uri, "difference")]
    rows += [
        (name, *pair, "")
        for name, pair in {
            "aliases": (_aliases(one), _aliases(other)),
            "created (UTC)": (_time(one), _time(other)),
            "run": (one.run_id[:8], other.run_id[:8]),
            "sha256": (one.digest[:12], other.digest[:12]),
            "started from": (its.starts, theirs.starts),
        }.items()
    ]
    for before, after in ((one.tags, other.tags), (_recipe(its), _recipe(theirs)), (_data(its), _data(theirs))):
        for name in sorted(before.keys() | after.keys()):
            values = before.get(name, ""), after.get(name, "")
            if values[0] != values[1] and name not in _SCORES and not name.startswith("evaluation/"):
                rows.append((name, *values, ""))
    mine, others = scores_of(one, its), scores_of(other, theirs)
    for name in dict.fromkeys([*mine, *others]):
        a, b = mine.get(name, {}), others.get(name, {})
        for score in _SCORES:
            difference = "only one" if not (a and b) else "other frames or annotations"
            if comparable(a, b):
                difference = f"{b[score] - a[score]:+.4f}"
            rows.append((f"{score} on {name}", *(f"{x[score]:.4f}" if x else "" for x in (a, b)), difference))
        rows += [(f"{option} on {name}", *pair, "") for option, pair in made_otherwise(a, b).items()]
    yield from table(rows)


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns side by side; `-` for an empty cell, but in the first row."""
    rows = [rows[0], *([cell or "-" for cell in row] for row in rows[1:])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _recipe(lineage: Lineage) -> dict[str, str]:
    return {name: value for name, value in sorted(lineage.recipe.items()) if name.startswith(_SHOWN)}


def _data(lineage: Lineage) -> dict[str, str]:
    facts = {"dataset": lineage.tags.get("dataset", "")}
    for name, source in lineage.sources.items():
        facts |= {f"{name} {key}": str(source[key]) for key in ("layout", "path", "estimator")}
    return facts


def _aliases(found: ModelVersion) -> str:
    return ", ".join(found.aliases)


def _time(found: ModelVersion) -> str:
    return datetime.fromtimestamp(found.created, UTC).strftime("%Y-%m-%d %H:%M")
