"""The loop: what one step is, when it stops, and what it leaves behind."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from training_toys import Batch, Denoiser, Game, Loss, Rows, Simple, fit, options, tensors

from unnoise.errors import Problem, UsageProblem
from unnoise.rng import Rng
from unnoise.training import Interrupted, Run, train
from unnoise.training.budget import Budget
from unnoise.training.feed import Order


def test_steps_are_those_of_a_plain_loop(tmp_path):
    """AdamW on the mean loss, gradients clipped by their global norm: written out, and the same to the last bit."""
    denoiser, objective, _, _ = fit(
        tmp_path / "run", steps=6, clip=0.3, weight_decay=0.1, denoiser=Denoiser(dropout=0.0)
    )
    plain, simple, data, order = Denoiser(dropout=0.0), Simple(), Rows(), Order(50, 8, 0)
    parameters = [*plain.parameters(), *simple.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, fused=True)
    setting = options(steps=6)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = setting.learning_rate(step, 6)
        batch = data.batch(order.indices(step))
        simple(plain, batch.x, batch.cond, Rng.for_step(0, step, range(8)), "denoiser").per_example.mean().backward()
        nn.utils.clip_grad_norm_(parameters, 0.3)
        optimizer.step()
        optimizer.zero_grad()
    for trained, expected in zip((denoiser, objective), (plain, simple), strict=True):
        for name, value in expected.named_parameters():
            torch.testing.assert_close(dict(trained.named_parameters())[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_is_the_mean_over_the_global_batch(tmp_path, parts):
    whole = fit(tmp_path / "whole", denoiser=Denoiser(dropout=0.0), eps=1e-4)
    split = fit(tmp_path / "split", denoiser=Denoiser(dropout=0.0), eps=1e-4, accumulate=parts)
    for name, value in tensors(whole[2], 8).items():
        torch.testing.assert_close(tensors(split[2], 8)[name], value, rtol=1e-5, atol=1e-6)
    for a, b in zip(whole[2].journal.read(), split[2].journal.read(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_a_turn_moves_only_what_it_names(tmp_path):
    class Frozen(Game):
        turn_options = {"critic": {"lr": 1e-30}}  # noqa: RUF012

    before = Denoiser().state_dict(), Game().state_dict()
    denoiser, objective, run, _ = fit(tmp_path / "run", Frozen(), steps=3)
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[1][name])
    assert not torch.equal(denoiser.state_dict()["network.0.weight"], before[0]["network.0.weight"])
    assert all(p.requires_grad for p in [*denoiser.parameters(), *objective.parameters()])
    line = run.journal.read()[0]
    assert line["loss"] == pytest.approx(line["critic/loss"] + line["denoiser/loss"])


def test_frozen_parameters_stay(tmp_path):
    denoiser = Denoiser()
    denoiser.network[0].requires_grad_(False)
    before = denoiser.network[0].weight.clone()
    _, _, run, _ = fit(tmp_path / "run", denoiser=denoiser, steps=3)
    assert torch.equal(denoiser.network[0].weight, before)
    kept = tensors(run, 3)
    assert torch.equal(kept["ema/network.0.weight"], before)
    assert not any("network.0" in name for name in kept if name.startswith("optimizer"))


def test_nothing_to_train_is_told(tmp_path):
    with pytest.raises(UsageProblem, match="nothing to train in the turn 'denoiser'"):
        fit(tmp_path / "run", denoiser=Denoiser().requires_grad_(False), objective=Simple().requires_grad_(False))
    empty = Rows(3)
    empty.x = empty.x[:0]
    with pytest.raises(UsageProblem, match="the data set is empty"):
        fit(tmp_path / "empty", data=empty)


def test_observing_sees_the_whole_batch_in_order(tmp_path):
    class Watching(Simple):
        def observe(self, loss):
            assert isinstance(loss, Loss)
            self.last = loss

    objective = Watching()
    fit(tmp_path / "run", objective, steps=3, accumulate=3)
    expected = Rng.for_step(0, 2, range(8)).uniform(dtype=torch.float32)
    assert torch.equal(objective.last.terms["t"], expected)
    assert objective.last.per_example.shape == (8,)


def test_networks_alone_compute_in_low_precision(tmp_path):
    class Spy(Denoiser):
        def __init__(self):
            super().__init__()
            self.inside, self.around = set(), set()
            self.network[1].register_forward_hook(lambda m, i, out: self.inside.add(out.dtype))

        def forward(self, x, t, cond=None):
            out = super().forward(x, t, cond)
            self.around |= {out.dtype, (x @ x.T).dtype}
            return out

    for precision, dtype in [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]:
        spy = Spy()
        fit(tmp_path / precision, denoiser=spy, steps=2, precision=precision)
        assert spy.inside == {dtype} and spy.around == {torch.float32}
        assert "forward" not in vars(spy.network)  # left as it was found
        assert next(spy.parameters()).dtype == torch.float32


def test_float16_skips_steps_that_overflow_and_resumes_its_scale(tmp_path):
    class Steep(Simple):
        def forward(self, denoiser, x0, cond, rng, turn):
            loss = super().forward(denoiser, x0, cond, rng, turn)
            return Loss(loss.per_example * 1e3, loss.terms)  # times the first scale, 2^16, more than float16 holds

    _, _, run, _ = fit(tmp_path / "run", Steep(), steps=30, precision="fp16", clip=None, warmup=0)
    lines = run.journal.read()
    assert lines[0]["grad_norm"] is None and lines[-1]["grad_norm"] > 0
    scaler = json.loads((run.checkpoint_path(30) / "state.json").read_text())["scaler"]
    assert scaler["scale"] < 2**16


@pytest.mark.parametrize(
    "checkpoint_every, good", [(2, r"the last good checkpoint is .*step-0000000\d"), (100, "no checkpoint")]
)
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, checkpoint_every, good):
    order = Order(50, 8, 0)
    poison = int(order.indices(4)[3])  # met in the fifth step
    with pytest.raises(
        Problem, match=rf"^the loss became nan at step 5, so .*; {good}.*; go on .* lower --lr \(it was 0.01\)"
    ):
        fit(tmp_path / "run", data=Rows(poison=poison), checkpoint_every=checkpoint_every)
    run = Run.open(tmp_path / "run")
    assert run.steps() == ([2, 4] if checkpoint_every == 2 else [])
    assert [line["step"] for line in run.journal.read()] == [1, 2, 3, 4]
    if run.steps():
        assert all(value.isfinite().all() for value in tensors(run, 4).values())


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    class Cliff(Simple):
        def forward(self, denoiser, x0, cond, rng, turn):
            loss = super().forward(denoiser, x0, cond, rng, turn)
            return Loss(
                loss.per_example + (self.log_weight * 0).abs().sqrt().sum(), loss.terms
            )  # 0, with slope infinite

    with pytest.raises(Problem, match="the grad_norm became nan at step 1, so the training stopped; no checkpoint"):
        fit(tmp_path / "run", Cliff(), checkpoint_every=1)
    assert Run.open(tmp_path / "run").steps() == []


@contextmanager
def disk_of(size: int):
    """Inside, no file can grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_the_run_whole(tmp_path):
    setting = {"denoiser": Denoiser(hidden=100), "checkpoint_every": 2, "log_every": 100}
    fit(tmp_path / "run", steps=4, decay="none", **setting)
    before = sorted(tmp_path.rglob("*"))
    with (
        disk_of(7000),
        pytest.raises(
            Problem, match=r"the checkpoint .*step-00000006 could not be written \(.*too large.*\); free some"
        ),
    ):
        fit(tmp_path / "run", steps=8, decay="none", resume=True, **setting)
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written
    run = Run.open(tmp_path / "run")
    assert run.latest(deep=True) == run.checkpoint_path(4)
    fit(tmp_path / "run", steps=8, decay="none", resume=True, **setting)


def test_metrics_that_cannot_be_written_are_told(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run.journal.path.symlink_to("/dev/full")
    run.journal.cut = lambda step: None
    with pytest.raises(Problem, match=r"the metrics .*metrics.jsonl could not be written \(No space left on device\)"):
        train(Simple(), Denoiser(), Rows(), options(), run)


def test_interrupt_is_a_sentence_and_a_second_one_insists(tmp_path):
    def on_step(line):
        if line["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a shell's background ignores it
    with pytest.raises(Interrupted, match="stopped by SIGINT after step 3 of 8; everything is saved") as caught:
        fit(tmp_path / "run", on_step=on_step)
    assert caught.value.exit_code == 130
    assert Run.open(tmp_path / "run").steps() == [3]
    assert signal.getsignal(signal.SIGINT) is before

    from unnoise.training.interrupt import Wish

    with pytest.raises(KeyboardInterrupt), Wish() as wish:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # at once: a launcher's echo
        assert wish.number == signal.SIGINT
        wish.when -= 5
        os.kill(os.getpid(), signal.SIGINT)


KILLED = """
import os, random, signal, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("error")
import torch, accelerate, matplotlib.figure
from training_toys import *
path, kills, out = sys.argv[2], int(sys.argv[3]), random.Random(0)
Run.create(path, {})
setting = dict(decay="none", checkpoint_every=2, keep=1, lr=1e-4)
for kill in range(kills):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        fit(path, resume=True, steps=10**6, draw=kill % 2 == 0, **setting)
    before = Run.open(path).steps()
    while Run.open(path).steps() <= before:  # it has begun to train
        time.sleep(0.001)
    time.sleep(out.uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    run = Run.open(path)
    newest = run.latest(deep=True)  # warnings are errors: the newest must be whole
    step = run.load(Denoiser())["step"]
    lines = run.journal.read()
    assert lines[-1]["step"] >= step and [l["step"] for l in lines] == list(range(1, len(lines) + 1)), kill
    print(step, flush=True)
fit(path, resume=True, steps=step + 3, **setting)
"""


def test_sigkill_at_any_instant_costs_no_more_than_the_last_checkpoint(tmp_path):
    here = os.path.dirname(__file__)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, here, str(tmp_path / "run"), "6"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    steps = [int(step) for step in done.stdout.split()]
    assert len(steps) == 6 and steps == sorted(set(steps))
    last = steps[-1] + 3
    whole = fit(tmp_path / "whole", steps=last, decay="none", checkpoint_every=last, lr=1e-4)
    expected, run = tensors(whole[2], last), Run.open(tmp_path / "run")
    for name, value in tensors(run, last).items():
        assert torch.equal(value, expected[name]), name


def test_a_budget_fixes_the_number_of_steps_and_resuming_keeps_it(tmp_path):
    class Slow(Rows):
        def batch(self, indices):
            time.sleep(0.01)
            return super().batch(indices)

    shown = []
    start = time.perf_counter()
    _, _, run, result = fit(
        tmp_path / "run", data=Slow(), minutes=2 / 60, steps=1, checkpoint_every=10**6, preview_every=10**6,
        preview=lambda denoiser, step, folder: shown.append(step), decay="linear",
    )  # fmt: skip
    assert 1 < time.perf_counter() - start < 5
    lines = run.journal.read()
    assert len(lines) == result.steps > 30
    assert lines[-1]["lr"] < 0.05 * lines[len(lines) // 3]["lr"]  # the decay ended with the run
    state = json.loads((result.checkpoint / "state.json").read_text())
    assert state["steps"] == state["step"] == result.steps == shown[-1]

    def stop(line):
        if line["step"] == 30:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted) as caught:
        fit(tmp_path / "again", data=Slow(), minutes=2 / 60, on_step=stop)
    planned = int(str(caught.value).split(" of ")[1].split(";")[0])
    assert fit(tmp_path / "again", data=Slow(), minutes=100.0, resume=True)[3].steps == planned


def test_budget_arithmetic():
    budget = Budget(1.0)
    budget.ticks = [0.0, 5.0, 6.0, 7.0, 7.5, 8.0, 8.5]
    type(budget).spent, kept = property(lambda self: 10.0), Budget.spent
    try:  # 60 s, 10 gone, 2 + 3 at the end; a step takes 0.5 s, and its share of 2 s per 10 and of 3 s per 30 steps
        assert budget.steps(options(checkpoint_every=10, preview_every=30), save=2.0, show=3.0) == int(45 / 0.8)
    finally:
        Budget.spent = kept


def test_what_is_left_in_the_folder(tmp_path):
    shown = []

    def preview(denoiser, step, folder):
        assert not denoiser.training and not torch.is_grad_enabled()
        shown.append((step, {name: value.clone() for name, value in denoiser.state_dict().items()}))
        (folder / f"{step}.txt").write_text("picture")

    lines = []
    denoiser, _, run, _ = fit(
        tmp_path / "run",
        steps=7,
        draw=True,
        preview=preview,
        preview_every=3,
        checkpoint_every=3,
        keep=5,
        on_step=lines.append,
    )
    assert [step for step, _ in shown] == [3, 6, 7] and run.steps() == [3, 6, 7] and denoiser.training
    for step, weights in shown:
        for name, value in weights.items():
            assert torch.equal(value, tensors(run, step)[f"ema/{name}"])  # previews show the average
    assert sorted(p.name for p in run.pictures.iterdir()) == ["3.txt", "6.txt", "7.txt", "loss.png"]
    assert (run.pictures / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert lines == run.journal.read()
    line = lines[-1]
    assert line["step"] == 7 and line["images"] == 56 and math.isfinite(line["grad_norm"])
    assert {"loss", "error", "t", "lr", "images_per_s", "seconds"} <= line.keys()
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints",
        "lock",
        "metrics.jsonl",
        "pictures",
        "run.json",
    ]


def test_lines_average_over_the_steps_since_the_last(tmp_path):
    every = fit(tmp_path / "every", steps=8)[2].journal.read()
    some = fit(tmp_path / "some", steps=8, log_every=3, checkpoint_every=4)[2].journal.read()
    assert [line["step"] for line in some] == [3, 4, 6, 8]
    for line, steps in zip(some, ([0, 1, 2], [3], [4, 5], [6, 7]), strict=True):
        assert line["loss"] == pytest.approx(sum(every[step]["loss"] for step in steps) / len(steps))


def test_an_interrupt_closes_the_line(tmp_path):
    def on_step(line):
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)  # noticed after step 4

    with pytest.raises(Interrupted, match="after step 4 of 8"):
        fit(tmp_path / "run", log_every=3, on_step=on_step)
    run = fit(tmp_path / "run", log_every=3, resume=True)[2]
    assert [line["step"] for line in run.journal.read()] == [3, 4, 6, 8]


def test_without_averages(tmp_path):
    shown = []
    denoiser, _, run, _ = fit(
        tmp_path / "run", ema=None, ema_power=(), preview=lambda d, s, f: shown.append(d.network[0].weight.clone()),
        preview_every=8,
    )  # fmt: skip
    assert torch.equal(shown[0], denoiser.network[0].weight)
    with pytest.raises(Problem, match=r"holds no 'ema'; it holds: model$"):
        run.load(Denoiser())


def test_tensorboard_gets_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, _, run, _ = fit(tmp_path / "run", steps=5, trackers=("tensorboard",))
    events = EventAccumulator(str(run.path / "trackers" / "run"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [(e.step, e.value) for e in scalars] == [(l["step"], pytest.approx(l["loss"])) for l in run.journal.read()]


def test_a_tracker_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UsageProblem, match="the tracker wandb is not installed; `pip install wandb`"):
        fit(tmp_path / "run", trackers=("wandb",))


def test_the_caller_s_random_state_is_left_alone(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    denoiser, objective = Denoiser(), Simple()
    torch.manual_seed(11)
    fit(tmp_path / "run", objective, denoiser=denoiser, steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_progress_is_quiet_without_a_terminal(tmp_path, capsys):
    fit(tmp_path / "run", steps=5)
    out = capsys.readouterr()
    assert out.out == "" and len(out.err.splitlines()) == 1
    assert out.err.startswith("step 5 of 5, loss ") and "images/s" in out.err


def test_progress_in_a_terminal_shows_step_loss_rate_and_time_left(monkeypatch):
    import rich.console

    from unnoise.training.progress import Progress

    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    with open(os.devnull, "w") as nowhere, Progress(0, 20) as progress:
        progress.show(5, 0.25, 1234.0)
        text = rich.console.Console(width=200, record=True, file=nowhere)
        text.print(progress.bar.get_renderable())
    shown = text.export_text()
    for part in ("5/20", "loss 0.25", "1,234 images/s", "left"):
        assert part in shown


def test_the_data_set_need_not_have_conditions(tmp_path):
    class Plain(Rows):
        def batch(self, indices):
            return Batch(self.x[indices], None)

    class Unconditional(Denoiser):
        def forward(self, x, t, cond=None):
            assert cond is None
            return self.network(torch.cat([x, t[:, None]], 1))

    fit(tmp_path / "run", data=Plain(), denoiser=Unconditional(), steps=2)
