"""What cluster/ tells people and machines to run is what there is: versions, verbs, options, fields of recipes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.dockerfile import copy_into, expanded, is_sent, read_steps
from pipelines.cli import VERBS, _parser
from pipelines.config import load_experiment
from pipelines.sweep import load_sweep
from tests.manifests import CLUSTER, JOBS, READMES, ROOT, VM, load, of_kind

STEPS = read_steps(CLUSTER / "Dockerfile")
CONSTRAINTS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


# the image


def test_the_image_has_an_ordinary_user_and_wants_a_token() -> None:
    assert [step.text for step in STEPS if step.word == "USER"][-1] == "1000"
    environment = dict(pair for step in STEPS if step.word == "ENV" for pair in step.pairs())
    assert environment["RAY_AUTH_MODE"] == "token"
    assert not any(re.search("PASSWORD|SECRET|ACCESS_KEY|AUTH_TOKEN", name) for name in environment)


def test_python_and_ray_are_the_same_everywhere() -> None:
    python = next(dict(step.pairs())["PYTHON"] for step in STEPS if step.word == "ARG")
    assert f"--python-version {python} " in (ROOT / "Makefile").read_text()
    (cluster,) = of_kind("RayCluster")
    assert cluster["spec"]["rayVersion"] == CONSTRAINTS["ray"]
    for file in VM:
        commands = "\n".join(load(file)["setup_commands"])
        assert f"--python {python} " in commands and f"/uv/{CONSTRAINTS['uv']}/" in commands
        assert "--constraint constraints.txt" in commands


def test_what_changes_seldom_comes_first_and_the_versions_are_those_of_the_constraints() -> None:
    words = [(step.word, step.text) for step in STEPS]
    install = next(
        n for n, (word, text) in enumerate(words) if word == "RUN" and "--requirement pyproject.toml" in text
    )
    assert "--constraint constraints.txt" in words[install][1] and "--compile-bytecode" in words[install][1]
    before = " ".join(text for word, text in words[:install] if word == "COPY")
    assert before.split() == ["pyproject.toml", "constraints.txt", "./"]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("rtnet/data/flow.py", True),
        ("pipelines/report.css", True),
        ("experiments/sweeps/toy.yaml", True),
        ("constraints.txt", True),
        ("rtnet/__pycache__/errors.cpython-311.pyc", False),
        ("experiments/.hidden", False),
        (".git/config", False),
        ("runs/mlflow.db", False),
        ("cluster/local/secrets/ray_token", False),
        ("tests/conftest.py", False),
    ],
)
def test_a_builder_sees_code_and_recipes_alone(path: str, sent: bool) -> None:
    assert is_sent(path, ROOT / ".dockerignore") is sent


def test_steps_are_read_as_a_builder_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text('ARG A=1\n# a comment\nRUN one \\\n    # within\n    && two\nENV B=$A C="x y"\nCOPY a b/ ./\n')
    steps = read_steps(file)
    assert [(step.line, step.word, step.text) for step in steps[:2]] == [(1, "ARG", "A=1"), (3, "RUN", "one && two")]
    assert steps[2].pairs() == [("B", "$A"), ("C", "x y")]
    assert expanded("${A}-$A-$B", {"A": "1"}) == "1-1-"
    file.write_text("HEALTHCHECK NONE\n")
    with pytest.raises(ValueError, match="line 1: HEALTHCHECK"):
        read_steps(file)


def test_copied_is_what_is_sent(tmp_path: Path) -> None:
    copy_into(tmp_path, "/opt/rtnet", "pipelines ./pipelines", ROOT)
    copy_into(tmp_path, "/opt/rtnet", "README.md LICENSE ./", ROOT)
    copied = {str(file.relative_to(tmp_path / "opt/rtnet")) for file in tmp_path.rglob("*") if file.is_file()}
    assert {"pipelines/cli.py", "pipelines/report.css", "README.md", "LICENSE"} <= copied
    assert not any("__pycache__" in path for path in copied)


# commands


@pytest.mark.parametrize("verb", [*VERBS, "tune"])
def test_every_verb_has_its_job(verb: str) -> None:
    (job,) = yaml.safe_load_all(JOBS[verb].read_text())
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:2] == ["rtnet", verb]
    assert job["metadata"]["name"] == f"davis16-resnet34-{verb}"
    _try([word.replace("/opt/rtnet/", "") for word in command])


def _commands() -> Iterator[tuple[str, str]]:
    for file in READMES:
        for line in file.read_text().splitlines():
            if line.startswith("    rtnet "):
                yield str(file.parent.name), line.split(" #")[0].strip()


@pytest.mark.parametrize(("folder", "command"), list(_commands()))
def test_a_command_of_a_readme_is_one(folder: str, command: str) -> None:
    _try(shlex.split(command))


def test_the_readmes_show_every_verb_that_a_cluster_needs() -> None:
    shown = {command.split()[2] for _, command in _commands() if command.startswith("rtnet submit")}
    assert {"prepare", "train", "predict", "evaluate"} <= shown


def _try(command: list[str]) -> None:
    """As the command line does it, up to the point where something would begin."""
    options = _parser().parse_args(command[1:])
    verb = getattr(options, "job_verb", options.verb)
    if verb == "tune":
        load_sweep(ROOT / getattr(options, "recipe", getattr(options, "sweep", "")), options.overrides)
    elif verb in VERBS:
        load_experiment(ROOT / options.recipe, options.overrides)


@pytest.mark.parametrize("file", READMES, ids=lambda file: file.parent.name)
def test_a_page_is_a_page_and_what_it_names_is_there(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 90
    for name in re.findall(r"\]\((?!https:)([^)#]+)\)", text):
        assert (file.parent / name).exists(), name
    for name in set(re.findall(r"(?:cluster|experiments)/[\w./-]*\w\.\w+", text)) - {
        "cluster/local/secrets/client.env"
    }:
        assert (ROOT / name).exists(), name
    if file.parent.name in ("local", "kuberay", "vm"):
        assert "**It costs**" in text
        assert {"Start", "Submit", "Watch", "Stop", "What to change"} <= {
            part.strip().capitalize()
            for line in text.splitlines()
            if line.startswith("## ")
            for part in line[3:].split(",")
        }
