"""Law 10: 2n steps are n steps, a stop, and n more, to the last bit."""

import os
import signal

import pytest
import torch
from training_toys import Denoiser, Game, Rows, Simple, fit, tensors

from unnoise.errors import Problem, UsageProblem
from unnoise.training import Interrupted


def stop_at(step, number=signal.SIGINT):
    def on_step(line):
        if line["step"] == step:
            os.kill(os.getpid(), number)

    return on_step


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("objective", [Simple, Game])
@pytest.mark.parametrize("changes", [{"precision": "fp32"}, {"precision": "bf16", "accumulate": 3}])
def test_resuming_changes_no_bit(tmp_path, objective, changes):
    whole = fit(tmp_path / "whole", objective(), steps=10, **changes)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM after step 6 of 10.*continue with `unnoise") as stopped:
        fit(tmp_path / "parts", objective(), steps=10, on_step=stop_at(5, signal.SIGTERM), **changes)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    # Another initialisation and another global random state: nothing of them may survive.
    torch.manual_seed(99)
    parts = fit(tmp_path / "parts", objective(), steps=10, denoiser=Denoiser(seed=7), resume=True, **changes)
    same(tensors(whole[2], 10), tensors(parts[2], 10))
    same(whole[0].state_dict(), parts[0].state_dict())
    same(whole[1].state_dict(), parts[1].state_dict())
    a, b = (run.journal.read() for run in (whole[2], parts[2]))
    assert [line["step"] for line in b] == list(range(1, 11))
    for x, y in zip(a, b, strict=True):
        assert {k: v for k, v in x.items() if k not in ("seconds", "images_per_s")} == {
            k: v for k, v in y.items() if k not in ("seconds", "images_per_s")
        }


def test_the_checkpoint_holds_what_it_says(tmp_path):
    denoiser, objective, run, result = fit(tmp_path / "run", steps=6)
    kept = tensors(run, 6)
    names = {name.split("/")[0] for name in kept}
    assert names == {"model", "ema", "ema-power-0.100", "objective", "optimizer"}
    for name, value in denoiser.state_dict().items():
        assert torch.equal(kept[f"model/{name}"], value)
    assert torch.equal(kept["objective/seen"], objective.seen)
    assert kept["optimizer/denoiser/denoiser.network.0.weight/step"] == 6
    assert "optimizer/denoiser/denoiser.unused.weight/step" not in kept  # it never had a gradient
    assert result.checkpoint == run.checkpoint_path(6) and result.images == 48


def test_resuming_at_the_end_does_nothing(tmp_path):
    _, _, run, first = fit(tmp_path / "run", steps=4)
    before = tensors(run, 4)
    again = fit(tmp_path / "run", steps=4, resume=True)[3]
    assert (again.steps, again.checkpoint) == (first.steps, first.checkpoint)
    same(before, tensors(run, 4))


def test_a_run_can_be_prolonged(tmp_path):
    fit(tmp_path / "run", steps=4, decay="none")
    long = fit(tmp_path / "run", steps=8, decay="none", resume=True)
    whole = fit(tmp_path / "whole", steps=8, decay="none")
    same(tensors(long[2], 8), tensors(whole[2], 8))


@pytest.mark.parametrize("change, word", [({"seed": 3}, "seed 0, not 3"), ({"batch_size": 4}, "batch_size 8, not 4")])
def test_what_must_not_change(tmp_path, change, word):
    fit(tmp_path / "run", steps=2)
    with pytest.raises(UsageProblem, match=word):
        fit(tmp_path / "run", steps=4, resume=True, **change)


def test_other_data_is_refused(tmp_path):
    fit(tmp_path / "run", steps=2)
    data = Rows()
    data.fingerprint = "others"
    with pytest.raises(UsageProblem, match="data rows, not others"):
        fit(tmp_path / "run", data=data, steps=4, resume=True)


def test_another_model_is_refused_and_left_alone(tmp_path):
    fit(tmp_path / "run", steps=2)
    denoiser = Denoiser(hidden=5)
    before = {k: v.clone() for k, v in denoiser.state_dict().items()}
    with pytest.raises(Problem, match=r"another model \(of another shape: network.0.bias \(16,\) for \(5,\)"):
        fit(tmp_path / "run", denoiser=denoiser, steps=4, resume=True)
    same(before, denoiser.state_dict())


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path):
    whole = fit(tmp_path / "whole", steps=9, checkpoint_every=3)
    _, _, run, _ = fit(tmp_path / "run", steps=9, checkpoint_every=3)
    weights = run.checkpoint_path(9) / "optimizer.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1  # one bit, the size stays
    weights.write_bytes(data)
    with pytest.warns(UserWarning, match=r"step-00000009 is damaged: optimizer.safetensors is not what was written"):
        fit(tmp_path / "run", steps=9, checkpoint_every=3, resume=True)
    same(tensors(whole[2], 9), tensors(run, 9))
