"""Flow matching's own mistakes are told when it is built, or before a run is begun."""

import pytest

from unnoise.data import load
from unnoise.errors import Problem, UsageProblem
from unnoise.model import train_model
from unnoise.papers.flow_matching import FlowMatching


@pytest.mark.parametrize("options", [{"coupling": "reflow"}, {"teacher": "runs/some"}])
def test_reflow_and_its_teacher_go_together(options):
    with pytest.raises(UsageProblem, match="give both"):
        FlowMatching(**options)


def test_a_missing_teacher_leaves_nothing_behind(tmp_path):
    recipe = FlowMatching(data="digits", coupling="reflow", teacher=str(tmp_path / "nowhere"))
    with pytest.raises(Problem, match="there is no run at"):
        train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    assert not (tmp_path / "run").exists()
