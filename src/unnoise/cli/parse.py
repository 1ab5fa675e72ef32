"""From words to a typed dataclass, by tyro; a mistake becomes one sentence that names the option and what it takes."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Sequence
from typing import TypeVar
from unittest import mock

import tyro

from ..errors import UsageProblem

Form = TypeVar("Form")


def parse(
    form: type[Form], argv: Sequence[str], command: str, description: str | None = None, pairs=False, more: str = ""
) -> Form:
    """The form filled in. With `pairs`, each switch has its opposite (--flip, --no-flip); `more` words lead to the help.

    Raises UsageProblem; prints the help and leaves, when that is asked for.
    """
    config = () if pairs else (tyro.conf.FlagCreatePairsOff,)
    prog = f"unnoise {command}"
    if {"-h", "--help"} & set(argv):
        return tyro.cli(form, args=list(argv), prog=prog, description=description, config=config)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), mock.patch.dict(os.environ, COLUMNS="10000"):
            return tyro.cli(form, args=list(argv), prog=prog, description=description, config=config)
    except SystemExit as leave:
        if leave.code != 2:
            raise
    raise UsageProblem(_sentence(errors.getvalue(), f"{prog} {more}".rstrip()))


KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "text", "PATH": "a path", "{None}": "None"}


def _takes(metavar: str) -> str:
    return " or ".join(KINDS.get(part, part.strip("{}").replace(",", ", ")) for part in reversed(metavar.split("|")))


def _sentence(box: str, prog: str) -> str:
    """What tyro's box says (drawn with lines, or with minus signs where the terminal knows no others: a title, then
    paragraphs). Where its wording is not known, its first paragraph as it is."""
    lines = [line.strip(" │") for line in box.strip().splitlines()[1:]]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if re.fullmatch(r"[╰─-]{4,}╯?", line):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    first = " ".join(next((paragraph for paragraph in paragraphs if paragraph), []))
    shown = [line for line in lines if re.match("--[a-z]", line)]  # the options that tyro quotes
    more = f"see `{prog} --help`"
    if match := re.match(r"Unrecognized options: (\S+?)(,|$)", first):
        word = match[1]
        if not word.startswith("-"):
            return f"what is {word!r} for? There is no place for it; {more}"
        near = f"; did you mean {shown[0].split(',')[0]}?" if shown else ""
        return f"unknown option {word}{near or ';'} {more}"
    if match := re.match(r"Error parsing (\S+): (.*)", first):
        option, reason = match[1], match[2]
        value = re.search(r"(?:invalid literal.*|could not convert.*): (.*)", reason)
        metavar = shown[0].split()[1:] if shown else []
        if value and metavar:
            return f"{option} takes {_takes(' '.join(metavar))}, not {value[1]}"
        return f"{option}: {reason}; {more}"
    if match := re.match(r"Missing value for argument '(\S+?)'(?:\. Expected (\d+))?", first):
        count = "a value" if match[2] in (None, "1") else f"{match[2]} values"
        return f"{match[1]} takes {count}, and there are fewer; {more}"
    if match := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)", first):
        choices = match[3].replace("'", "").split(", ")
        if "None" in choices:  # of an option that may be left out; tyro has them in no order
            choices = sorted(set(choices) - {"None"})
        return f"{match[2]} takes one of {', '.join(choices)}, not {match[1]!r}"
    if first.startswith("Missing from"):
        missing = re.findall(r"(?:: |\(required\) )(\S+)", first)
        return f"{' and '.join(missing) or 'something'} is missing; {more}"
    return f"{first or 'this request cannot be read'}; {more}"
