"""What the options of every network have in common."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

from ..errors import UsageProblem, unknown


class Options:
    """Base of the frozen dataclasses of options. They survive JSON (`asdict` and back: lists become tuples again), and
    a choice that is none of an option's `Literal` values, or an impossible dropout, raises UsageProblem."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            if get_origin(kinds[field.name]) is Literal and value not in get_args(kinds[field.name]):
                raise unknown(field.name, str(value), get_args(kinds[field.name]))
        dropout: float = getattr(self, "dropout", 0.0)
        if not 0 <= dropout < 1:
            raise UsageProblem(f"dropout is {dropout}, but must be 0 or more and below 1")
