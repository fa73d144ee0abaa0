"""The gate before an alias, and two versions side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli, registry, tracking
from pipelines.promotion import compared
from rtnet.errors import UserError

_CONTENT = "digest of frames and annotations"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    tracking.open_store(uri, create=True)
    return uri


def _versions(uri: str, name: str, tmp_path: Path, *scores: Mapping[str, Any] | None) -> list[registry.ModelVersion]:
    """A version for each, evaluated on "val" where there are scores, or with training's own where they have no name."""
    versions = []
    for number, facts in enumerate(scores):
        (tmp_path / registry.MODEL_FILE).write_bytes(f"{name} {number}".encode())
        run = tracking.start_plain_run(uri, name, {})
        own = facts if facts and "content" not in facts else {}
        model = f"{name}/{registry.register_model(run, tmp_path, name, tags=own)}"
        if facts and not own:
            registry.record_evaluation(uri, registry.resolve_model(uri, model), "val", facts)
        versions.append(registry.resolve_model(uri, model))
    return versions


def _scores(jf: float, content: str = _CONTENT) -> dict[str, Any]:
    return {"J": jf - 0.01, "F": jf + 0.01, "JF": jf, "frames": 40, "content": content}


def _promote(uri: str, *words: str) -> int:
    return cli.main(["models", "promote", *words, "--tracking", uri])


def test_the_better_takes_the_alias_and_the_worse_is_refused_with_both_numbers(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _versions(uri, "gate", tmp_path, _scores(0.71), _scores(0.68), _scores(0.71))
    assert _promote(uri, "gate/1", "champion") == 0
    assert "nothing to compare" in capsys.readouterr().out
    assert _promote(uri, "gate/2", "champion") == 2
    said = capsys.readouterr().err
    assert "0.6800" in said and "0.7100" in said and "val" in said and len(said.splitlines()) == 1
    assert registry.resolve_model(uri, "gate@champion").version == 1
    assert _promote(uri, "gate/3", "champion") == 0  # not below
    assert "J&F on val: version 3 0.7100, version 1 (champion) 0.7100" in capsys.readouterr().out


def test_a_forced_promotion_is_kept_with_the_version(uri: str, tmp_path: Path) -> None:
    _versions(uri, "forced", tmp_path, _scores(0.7), _scores(0.6))
    _promote(uri, "forced/1", "champion")
    assert _promote(uri, "forced/2", "champion", "--force") == 0
    found = registry.resolve_model(uri, "forced@champion")
    assert found.version == 2
    assert "0.6000" in found.tags["promotion/champion"] and "0.7000" in found.tags["promotion/champion"]


def test_a_version_without_scores_is_refused_and_told_what_to_run(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _versions(uri, "unknown", tmp_path, _scores(0.7), None)
    _promote(uri, "unknown/1", "champion")
    assert _promote(uri, "unknown/2", "champion") == 2
    assert "evaluate its masks" in capsys.readouterr().err


def test_trainings_own_scores_count_as_the_evaluation_called_validation(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [
        {"J": jf, "F": jf, "JF": jf, "dataset.digest": digest} for jf, digest in ((0.5, "a"), (0.4, "a"), (0.9, "b"))
    ]
    _versions(uri, "trained", tmp_path, *own)
    _promote(uri, "trained/1", "champion")
    assert _promote(uri, "trained/2", "champion", "--evaluation", "validation") == 2
    assert "J&F on validation: version 2 0.4000, version 1 (champion) 0.5000" in capsys.readouterr().err
    assert _promote(uri, "trained/3", "champion") == 2  # another dataset
    assert "no evaluation of both on the same frames" in capsys.readouterr().err


def test_scores_on_other_frames_do_not_compare() -> None:
    with pytest.raises(UserError, match="other frames or annotations on val"):
        compared("a", {"val": _scores(0.9)}, "b", {"val": _scores(0.1, "others")}, "val")


def test_scores_that_were_not_made_alike_compare_and_say_so() -> None:
    made_with = {"prediction.threshold": 0.5, "prediction.height": 384}
    mine = {"val": _scores(0.7) | {"made_with": made_with | {"prediction.threshold": 0.1}}}
    theirs = {"val": _scores(0.6) | {"made_with": made_with}}
    said = compared("version 2", mine, "version 1", theirs)
    assert said.endswith("not made alike: prediction.threshold 0.1 and 0.5")
    assert "alike" not in compared("version 2", mine, "version 1", mine)


def test_of_several_common_evaluations_one_must_be_named() -> None:
    both = {"val": _scores(0.5), "fbms": _scores(0.6)}
    with pytest.raises(UserError, match="--evaluation, one of val, fbms"):
        compared("a", both, "b", both)
    assert compared("a", both, "b", both, "fbms") == "J&F on fbms: a 0.6000, b 0.6000"
    with pytest.raises(UserError, match="duts"):
        compared("a", both, "b", both, "duts")


def test_a_score_that_is_no_number_does_not_pass() -> None:
    with pytest.raises(UserError, match="nan"):
        compared("a", {"val": _scores(float("nan"))}, "b", {"val": _scores(0.1)})


def test_compare_shows_both_scores_their_difference_and_what_else_differs(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _versions(uri, "pair", tmp_path, _scores(0.7), _scores(0.75))
    registry.set_tag(uri, second, "backbone", "resnet50")
    registry.record_evaluation(uri, first, "fbms", _scores(0.5))
    registry.record_evaluation(uri, second, "fbms", _scores(0.5, "others"))
    assert cli.main(["models", "compare", "pair/1", "pair/2", "--tracking", uri]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "models:/pair/1 models:/pair/2 difference"
    assert "JF on val 0.7000 0.7500 +0.0500" in lines
    assert "JF on fbms 0.5000 0.5000 other frames or annotations" in lines
    assert "backbone - resnet50 -" in lines


def test_show_lists_the_evaluations(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _versions(uri, "shown", tmp_path, _scores(0.7))
    assert cli.main(["models", "show", "shown/1", "--tracking", uri]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["evaluation", "JF", "J", "F", "frames"] in lines
    assert ["val", "0.7000", "0.6900", "0.7100", "40"] in lines
