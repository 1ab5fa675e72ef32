"""Every part the library registers has an instance on which the laws run."""

import laws_parts as parts
import pytest

from unnoise.denoisers.preconditioning import Preconditioning
from unnoise.objectives.times import Times
from unnoise.samplers import GRIDS, SAMPLERS
from unnoise.samplers.grids import Grid
from unnoise.samplers.loop import Step
from unnoise.schedules import Schedule, VariancePreserving

ABSTRACT = {VariancePreserving}


@pytest.mark.parametrize(
    "base, instances",
    [
        (Schedule, parts.SCHEDULES | parts.BY_FREQUENCY),
        (Preconditioning, parts.PRECONDITIONINGS | parts.PRECONDITIONINGS_BY_FREQUENCY),
        (Times, parts.TIMES),
        (Grid, parts.GRIDS),
        (Step, parts.STEPS | parts.ELSEWHERE),
    ],
)
def test_every_part_is_put_to_the_laws(base, instances):
    parts_of = {
        c for c in parts.registered(base) - ABSTRACT if base is not Step or c.name
    }  # a step without a name is abstract
    missing = parts_of - {type(part) for part in instances.values()}
    assert not missing, f"add an instance of {sorted(c.__name__ for c in missing)} to tests/laws/laws_parts.py"


def test_registries_hold_what_is_defined():
    assert {g for g in parts.registered(Grid) if g.name} == set(GRIDS.values())
    assert {s for s in parts.registered(Step) if s.name} == set(SAMPLERS.values())
    assert all(name == cls.name for registry in (GRIDS, SAMPLERS) for name, cls in registry.items())
