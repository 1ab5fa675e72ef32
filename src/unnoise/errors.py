"""Mistakes that a person can mend, told in one sentence."""

from __future__ import annotations


class Problem(Exception):
    """Something went wrong that the user can mend.

    The message is one sentence that names the thing and the remedy. The command line prints it without a
    traceback and leaves with `exit_code`.
    """

    exit_code = 1


class UsageProblem(Problem):
    """The request itself is wrong: an unknown name, an option out of range, parts that do not fit together."""

    exit_code = 2


class Diverged(Problem):
    """Numbers went beyond all bounds, or found no end: of a loss, of a solver."""


def unknown(kind: str, name: str, known) -> UsageProblem:
    """The error for a name that is not registered, listing those that are and the nearest one."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    every = ", ".join(known)
    if near and len(every) > 250:
        every = f"{len(known)}, which --help lists"
    return UsageProblem(f"unknown {kind} {name!r}{hint}; known: {every}")
