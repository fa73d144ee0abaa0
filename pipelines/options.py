"""The command line's options; what is wrong with them is one line."""

import argparse
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn

from pipelines.credentials import redacted


def add_overrides(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Any number of section.field=value, the option `overrides`."""
    # With a default, as argparse calls a list without one required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.field=value", help=purpose)


class OptionParser(argparse.ArgumentParser):
    """argparse's, whose complaints are one line of the command itself: no usage before it, no caller's name on it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Of what it does not know nothing is left to the caller, a parser of which this one may be a part."""
        words = list(sys.argv[1:] if args is None else args)
        # First, as a misspelt option that is required would be called missing. A command's own are behind its name.
        self._refuse_unknown(words if self._subparsers is None else takewhile(lambda word: word.startswith("-"), words))
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            apart = not any(word.startswith("-") for word in left)  # argparse takes those of one kind together alone
            what = "too many, or apart from the others" if apart else "unrecognized arguments"
            self.error(f"{what}: {' '.join(left)}")
        return parsed, left

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        said = redacted(" ".join(message.splitlines()))
        self.exit(2, f"{self.prog}: {said} ({self.prog} --help)\n")

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = [option for option in self._option_string_actions if option.startswith("--")]
        for word in takewhile(lambda word: word != "--", words):
            name = word.partition("=")[0]
            # As argparse has it: words with a space are no options, and the beginning of an option stands for it.
            if not name.startswith("--") or " " in word or any(option.startswith(name) for option in known):
                continue
            close = get_close_matches(name, known, n=1)
            self.error(f"unrecognized option {name}" + (f": did you mean {close[0]}?" if close else ""))
