"""Two networks in long turns, each taught by what the other makes: a resumed run continues to the last bit, wherever it was cut."""

import pytest
import torch
from training_toys import fit, tensors

from unnoise.couplings import Unpaired
from unnoise.data import Batch
from unnoise.denoisers import Bridged, NetworkDenoiser, Raw
from unnoise.networks import MLPOptions
from unnoise.objectives import BridgeMatching, HalfSteps, Matching, Uniform
from unnoise.processes import Bridge, Gaussian
from unnoise.samplers import EulerMaruyama
from unnoise.samplers import Uniform as Grid
from unnoise.schedules import Brownian


class Points:
    fingerprint = "points"

    def __init__(self, shift: float):
        self.x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1)) + shift

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows) -> Batch:
        return Batch(self.x[rows])


def game(seed: int = 0):
    """Objective, denoiser and data; the first half-step has 5 steps, the others 6, with new pairs every 4."""
    torch.manual_seed(seed)
    process = Bridge(Gaussian(Brownian()))
    nets = (MLPOptions(width=16, depth=1, dropout=0.1).build(2) for _ in range(2))
    bridged = Bridged(process, *(NetworkDenoiser(net, process.reference, Raw("eps")) for net in nets))
    plan = HalfSteps(5, 6, 24, 4, EulerMaruyama(), Grid(3))
    objective, data, others = BridgeMatching(Matching("eps", Uniform(1e-3)), plan, (2,)), Points(-1.0), Points(1.0)
    objective.receive(data, others, Unpaired(others))
    return {"objective": objective, "denoiser": bridged, "data": data}


@pytest.mark.parametrize("cut", [3, 5, 7, 9, 13])
def test_a_run_cut_anywhere_continues_to_the_last_bit(tmp_path, cut):
    whole = fit(tmp_path / "whole", steps=18, decay="none", **game())
    fit(tmp_path / "parts", steps=cut, decay="none", **game())
    parts = fit(tmp_path / "parts", steps=18, decay="none", resume=True, **game(seed=3))
    a, b = tensors(whole[2], 18), tensors(parts[2], 18)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    lines = [
        [{k: line[k] for k in ("step", "loss", "grad_norm")} for line in fitted[2].journal.read()]
        for fitted in (whole, parts)
    ]
    assert lines[0] == lines[1]


def test_each_half_step_moves_one_network(tmp_path):
    run = fit(tmp_path / "run", steps=17, checkpoint_every=1, keep=20, **game())[2]
    for step in range(1, 17):
        before, after = tensors(run, step), tensors(run, step + 1)
        moved = {n.split(".")[0] for n in before if n.startswith("model/") and not torch.equal(before[n], after[n])}
        assert moved == {"model/towards_other" if 5 <= step < 11 else "model/towards_data"}, step
        same_pairs = all(torch.equal(before[n], after[n]) for n in ("objective/data", "objective/others"))
        assert same_pairs == (step not in (5, 9, 11, 15)), step


def test_pairs_are_made_by_the_averaged_network(tmp_path):
    """The pairs of step 5 are walks of the averages that the checkpoint of step 5 holds."""
    toys = game()
    run = fit(tmp_path / "run", steps=6, checkpoint_every=1, keep=20, **toys)[2]
    kept, at = tensors(run, 6), game(seed=4)
    run.load(at["denoiser"], "ema", 5)
    at["denoiser"].eval()

    class Shown:
        def __enter__(self):
            return at["denoiser"]

        def __exit__(self, *error):
            return None

    with torch.no_grad():
        at["objective"].prepare(5, Shown)
    assert torch.equal(kept["objective/data"], at["objective"].data)
    assert torch.equal(kept["objective/others"], at["objective"].others)
