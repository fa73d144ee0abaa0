"""The `models` command on one SQLite store."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import models, registry, tracking
from pipelines.config import validate
from pipelines.storage import open_storage, read_bytes, write_whole
from rtnet.errors import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Model toy with versions 1 and 2, alias best on 2; model other with version 1."""
    root, folder = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("folder")
    sections = {
        "name": "toy",
        "storage": str(root),
        "data": {"sources": {"a": {"layout": "davis16", "path": "a"}}, "dataset": "b"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
    }
    experiment = validate(sections, "test")
    run = tracking.start_run(experiment, "toy")
    run.log_params(experiment)
    source = {"layout": "davis16", "path": "/data/a", "estimator": "dis-medium"}
    run.log_bytes(json.dumps({"sources": {"a": source}}).encode(), "dataset/provenance.json")
    for content, name in ((b"1", "toy"), (b"2", "toy"), (b"3", "other")):
        (folder / registry.MODEL_FILE).write_bytes(content)
        registry.register_model(run, folder, name, "best", tags={"epoch": 3})
    return run.uri


def _models(store: str, *words: str) -> None:
    parser = argparse.ArgumentParser()
    models.add_arguments(parser)
    models.run_command(parser.parse_args([*words, "--tracking", store]))


def test_list_shows_every_version_with_its_aliases(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    _models(store, "list")
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["model", "version", "aliases"]
    assert [row.split()[:3] for row in rows] == [["other", "1", "best"], ["toy", "1", "-"], ["toy", "2", "best"]]


def test_list_of_one_model_leaves_the_others_out(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    _models(store, "list", "other")
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_show_tells_the_digest_the_tags_the_recipe_and_the_data(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    _models(store, "show", "toy/1")
    said = capsys.readouterr().out
    facts = dict(line.split(maxsplit=1) for line in said.splitlines() if line)
    assert facts["model"] == "models:/toy/1"
    assert facts["sha256"] == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"  # of "1"
    assert facts["epoch"] == "3"
    assert facts["training.momentum"] == "0.9"
    assert "toy, RUNNING" in facts["run"]
    assert "random weights" in facts["started"]
    assert "davis16 of /data/a, flow dis-medium" in said


def test_promote_moves_an_alias(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    _models(store, "promote", "toy/1", "champion")
    _models(store, "promote", "toy/2", "champion")
    assert "models:/toy@champion is now version 2" in capsys.readouterr().out
    assert registry.resolve_model(store, "toy@champion").version == 2


@pytest.mark.parametrize("alias", ["latest", "V1", "bad alias!", "", "a" * 256])
def test_an_alias_that_mlflow_does_not_take_is_refused_in_our_words(store: str, alias: str) -> None:
    with pytest.raises(UserError, match=rf"^ALIAS '{alias}': (MLflow keeps|an alias is of letters, digits)"):
        _models(store, "promote", "toy/1", alias)


@pytest.mark.parametrize("alias", ["_prüfung-2", "v1a", "a" * 255])
def test_an_alias_that_mlflow_takes_is_given(store: str, alias: str) -> None:
    _models(store, "promote", "toy/1", alias)
    assert registry.resolve_model(store, f"toy@{alias}").version == 1


def test_an_export_does_not_replace_what_is_there(store: str, bucket: str, tmp_path: Path) -> None:
    for place in (f"{tmp_path}/taken.onnx", f"{bucket}/exports/taken.onnx"):
        write_whole(*open_storage(place), b"before")
        with pytest.raises(UserError, match=f"^{place} is there already: delete it or give another name"):
            _models(store, "export", "no-such-model/1", place)  # whose lookup would come next
        assert read_bytes(*open_storage(place)) == b"before"
        with pytest.raises(UserError, match="no model 'no-such-model'"):
            _models(store, "export", "no-such-model/1", place.replace("taken", "free"))


def test_show_names_what_is_not_there(store: str) -> None:
    with pytest.raises(UserError, match="no alias 'worst'"):
        _models(store, "show", "toy@worst")


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.db: train first, .* `rtnet models import`, .*--tracking"):
        _models(f"sqlite:///{tmp_path}/none.db", "list")
    assert not list(tmp_path.iterdir())


def test_the_help_needs_neither_mlflow_nor_torch() -> None:
    code = "import sys, pipelines.models; sys.exit(bool({'mlflow', 'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0
