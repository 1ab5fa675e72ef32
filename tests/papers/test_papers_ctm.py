"""CTM: trained with its teacher in one run, or taught by a run that is there; a resumed run continues to the last bit."""

import signal
from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import jump
from unnoise.errors import UsageProblem
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.papers import find
from unnoise.papers.ctm import CTM
from unnoise.papers.edm import EDM
from unnoise.recipe import Sampling, Spec
from unnoise.rng import Rng
from unnoise.samplers import SAMPLERS, Gamma, Heun, Jumps, Karras
from unnoise.training import Run, TrainingOptions
from unnoise.training.checkpoint import check, read_tensors

SMALL = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), dropout=0.1)
COLOUR = Spec((3, 64, 64), tuple("abcdefghij"))


def short(steps=4, **changes):
    return TrainingOptions(
        **{
            "steps": steps,
            "batch_size": 16,
            "lr": 3e-3,
            "precision": "fp32",
            "checkpoint_every": 2,
            "ema": 500,
            **changes,
        }
    )


def recipe(**changes):
    quick = {"network": SMALL, "solver_steps": 2, "teacher_training": short(), "training": short()}
    return CTM(data="digits", **{**quick, **changes})


def tensors(run: Run, step: int):
    folder = run.checkpoint_path(step)
    files = [name.removesuffix(".safetensors") for name in check(folder)["files"]]
    return {f"{file}/{name}": value for file in files for name, value in read_tensors(folder, file).items()}


@pytest.mark.parametrize("preset", CTM.presets)
def test_presets_build_and_give_images_back(preset):
    recipe = CTM.preset(preset)
    with torch.device("meta"):
        denoiser = recipe.denoiser(COLOUR)
        told = {"toward": torch.zeros(2)} | ({"label": torch.zeros(2, dtype=torch.int64)} if recipe.conditional else {})
        output = denoiser.network(torch.zeros(2, 3, 64, 64), torch.zeros(2), told)
    assert output.shape == (2, 3, 64, 64)
    assert find("ctm").from_dict(recipe.as_dict()) == recipe


def test_it_learns(tmp_path):
    """A teacher, then its student, in seconds: one jump ends nearer to the teacher's 35 evaluations than the teacher's one."""
    data, training = load("digits"), short(150, batch_size=32, checkpoint_every=150, ema=1000)
    network = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(), middle_attention=False)
    own = recipe(network=network, teacher_training=training, training=replace(training, steps=80), solver_steps=5)
    model, _ = train_model(own, data, tmp_path / "run", preview=False)
    teacher = Model.load(tmp_path / "run" / "stages" / "teacher")
    assert isinstance(teacher.recipe, EDM)
    goal = teacher.sample(range(64), Sampling(Heun(), Karras(18)))
    far, near = (
        float((m.sample(range(64), Sampling(Gamma(), Jumps(1))) - goal).square().mean().sqrt())
        for m in (teacher, model)
    )
    assert near < 0.8 * far
    assert model.sample(range(2)).isfinite().all()


def test_the_student_begins_as_its_teacher_and_every_sampler_runs_on_it(tmp_path):
    data = load("digits")
    teacher, _ = train_model(
        EDM(data="digits", network=SMALL, training=short(20)), data, tmp_path / "teacher", preview=False
    )
    still = recipe(teacher=str(tmp_path / "teacher"), training=short(1, lr=1e-12))
    student, _ = train_model(still, data, tmp_path / "student", preview=False)
    assert student.recipe.network == teacher.recipe.network and student.recipe.sigma_data == teacher.spec.std
    heun = Sampling(Heun(), Karras(4))
    torch.testing.assert_close(student.sample(range(3), heun), teacher.sample(range(3), heun), atol=1e-4, rtol=1e-4)
    for name in ("ancestral", "ddim", "dpm-solver++", "churn", "rk45"):
        images = student.sample(range(2), Sampling(SAMPLERS[name](), Karras(4)))
        assert images.shape == (2, 1, 8, 8) and images.isfinite().all()
    x, t = Rng.from_seeds([0]).normal(1, 8, 8), torch.tensor([0.2], dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(jump(student.denoiser, x, t, t), x)


class Stop:
    """Stops the run at a step, as a signal would."""

    def __init__(self, step):
        self.step = step

    def __call__(self, line):
        if line["step"] == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_a_resumed_run_continues_to_the_last_bit(tmp_path):
    """Teacher's stage and student's training both interrupted, and the average that is the target taken up."""
    from unnoise.training import Interrupted

    data = load("digits")
    train_model(recipe(), data, tmp_path / "whole", preview=False)
    for stop in (3, 3):
        with pytest.raises(Interrupted):
            train_model(recipe(), data, tmp_path / "halves", preview=False, on_step=Stop(stop))
    train_model(recipe(), data, tmp_path / "halves", preview=False)
    whole, halves = (tensors(Run.open(tmp_path / name), 4) for name in ("whole", "halves"))
    assert whole.keys() == halves.keys() and any(name.startswith("objective/target") for name in whole)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_teachers_that_do_not_fit_are_told_before_anything_is_written(tmp_path):
    data = load("digits")
    vp = EDM(data="digits", network=SMALL, preconditioning="vp", training=short(1))
    train_model(vp, data, tmp_path / "vp", preview=False)
    with pytest.raises(UsageProblem, match="in EDM's preconditioning"):
        train_model(recipe(teacher=str(tmp_path / "vp")), data, tmp_path / "student", preview=False)
    assert not (tmp_path / "student").exists()
