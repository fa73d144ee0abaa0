"""The command line: a mistake in it is one line that names the command, the option and what to do."""

import pytest

from pipelines.cli import main

SEGMENT = ["segment", "a.mp4", "--model", "m", "--output", "o"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SEGMENT, "--height", "12"], "rtnet segment: argument --height: 12 is not within 32..4096"),
        ([*SEGMENT, "--height", "abc"], "rtnet segment: argument --height: abc is no whole number within 32..4096"),
        ([*SEGMENT, "--threshold", "1.5"], "rtnet segment: argument --threshold: 1.5 is no number within 0..1"),
        ([*SEGMENT, "--treshold", "0.5"], "rtnet segment: unrecognized option --treshold: did you mean --threshold?"),
        ([*SEGMENT, "--frobnicate"], "rtnet segment: unrecognized option --frobnicate"),
        (["segment", "a", "--modle=m"], "rtnet segment: unrecognized option --modle: did you mean --model?"),
        (["jobs", "--adress", "a", "list"], "rtnet jobs: unrecognized option --adress: did you mean --address?"),
        (["jobs", "logs", "a", "--folow"], "rtnet jobs logs: unrecognized option --folow: did you mean --follow?"),
        (["models", "list", "-x"], "rtnet models list: unrecognized arguments: -x"),
        (["models", "frobnicate"], "rtnet models: argument ACTION: invalid choice: 'frobnicate' (choose from 'list'"),
        (["submit", "trian", "a.yaml"], "rtnet submit: argument VERB: invalid choice: 'trian'"),
        (["submit", "train", "a.yaml", "--no-wait", "a=b"], "rtnet submit: too many, or apart from the others: a=b"),
        (["predict"], "rtnet predict: the following arguments are required: recipe (rtnet predict --help)"),
        (["submit", "train"], "rtnet submit: the following arguments are required: recipe (rtnet submit --help)"),
        (["tune"], "rtnet tune: the following arguments are required: sweep (rtnet tune --help)"),
        (["show", "a", "b", "two\nlines"], "rtnet show: too many, or apart from the others: two lines"),
        ([], "rtnet: the following arguments are required: VERB (rtnet --help)"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_of_the_command_that_has_them(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(said)
    assert line.endswith(f"({said.partition(':')[0]} --help)")


def test_a_password_in_a_misplaced_word_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "list", "toy", "http://trainer:hidden@host"])
    assert "hidden" not in capsys.readouterr().err


def test_an_option_may_be_shortened_and_its_value_may_look_like_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEGMENT, "--thres", "0.5", "--rate=12"]) == 2
    assert main(["segment", "--model", "m", "--output", "o", "--", "--treshold"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("rtnet segment: a.mp4: no such file")
    assert second.startswith("rtnet segment: --treshold: no such file")
