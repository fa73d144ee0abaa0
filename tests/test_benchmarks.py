"""The benchmarks run, on the CPU and at toy size: their figures are not judged here."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.benchmarks import network, training_step

ROOT = Path(__file__).parents[1]
TOY = ["--sizes", "48x80", "--backbones", "resnet34", "--repeats", "1", "--threads", "1"]
TOY_STEP = ["--device", "cpu", "--sizes", "48x80", "--rounds", "1", "--threads", "1"]

Printed = Callable[..., list[str]]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """What a benchmark says that measures in processes of its own anyway."""

    def lines(main: Callable[[], None], *arguments: str) -> list[str]:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
        main()
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.slow
def test_the_network_is_compared_with_the_plain_one(printed: Printed) -> None:
    *table, last = printed(network.main, *TOY, "--work", "two")
    assert [row.split(" | ")[0] for row in table[4:]] == ["| both maps of a pair"]
    assert re.fullmatch(r"ratio: \d+\.\d\d", last)


@pytest.mark.slow
def test_a_training_step_is_compared_with_the_plain_one(printed: Printed) -> None:
    *table, last = printed(training_step.main, *TOY_STEP)
    assert [row.split(" | ")[:4] for row in table[4:]] == [["| resnet34", "48x80", "float32", "1"]]
    assert re.fullmatch(r"ratio: \d+\.\d\d", last)


@pytest.mark.slow
def test_the_profile_names_the_operators_of_both_training_steps(printed: Printed) -> None:
    lines = printed(training_step.main, *TOY_STEP, "--profile")
    assert sum(line.startswith("| convolution_backward |") for line in lines) == 2


@pytest.mark.slow
def test_bfloat16_is_compared_with_float32_after_a_training() -> None:
    toy = ["--steps", "2", "--height", "48", "--frames", "4", "--backbone", "resnet18"]
    command = [sys.executable, "-m", "experiments.benchmarks.precision", *toy]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| b")] == ["| bfloat16"]
    assert re.fullmatch(r"ratio: \d+\.\d\d", lines[-1])
