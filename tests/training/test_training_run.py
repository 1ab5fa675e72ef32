"""The run folder: whole at every instant, and what it says when it is not what was hoped for."""

import json
import os
import subprocess
import sys

import pytest
import torch
from training_toys import Denoiser, fit

from unnoise.errors import Problem, UsageProblem
from unnoise.training import Run
from unnoise.training.checkpoint import read_state, write_checkpoint


def save(run: Run, step: int, value: float = 0.0, **retention) -> None:
    run.save(
        {"model": {"w": torch.full((100,), value)}, "ema": {"w": torch.full((100,), -value)}},
        {"step": step},
        **retention,
    )


def test_run_json_tells_what_was_run(tmp_path):
    made = Run.create(tmp_path / "deep" / "run", {"paper": "toy", "options": {"lr": 0.1, "betas": (0.9, 0.99)}})
    run = Run.open(made.path)
    assert run.config == made.config
    assert run.config["paper"] == "toy" and run.config["options"]["betas"] == [0.9, 0.99]
    assert run.config["versions"]["torch"] == torch.__version__
    assert run.config["machine"]["cores"] == os.cpu_count()
    assert {"created", "command", "commit"} <= run.config.keys()
    assert sorted(p.name for p in run.path.parent.iterdir()) == ["run"]  # nothing is left aside


def test_a_folder_in_use_is_refused(tmp_path):
    Run.create(tmp_path / "run", {})
    with pytest.raises(UsageProblem, match="holds a run already; resume it"):
        Run.create(tmp_path / "run", {})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(UsageProblem, match="not an empty folder"):
        Run.create(tmp_path / "other", {})
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", {})


def test_an_unwritable_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        Problem, match=r"the run folder .* could not be written \(Not a directory\); choose another place"
    ):
        Run.create(tmp_path / "file" / "deep" / "run", {})
    with pytest.raises(Problem, match="could not be written"):
        Run.create("/proc/run", {})


def test_what_is_not_a_run_is_told(tmp_path):
    with pytest.raises(UsageProblem, match="there is no run at"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(UsageProblem, match=r"is not a run folder \(it has no run.json\)"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"paper": "to')
    with pytest.raises(Problem, match=r"run.json cannot be read as JSON"):
        Run.open(tmp_path)


def test_retention(tmp_path):
    run = Run.create(tmp_path / "run", {})
    for step in range(1, 11):
        save(run, step, keep=2, keep_every=4)
    assert run.steps() == [4, 8, 9, 10]
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == [f"step-{s:08d}" for s in (4, 8, 9, 10)]


def test_loading_finds_the_newest_whole_checkpoint(tmp_path):
    run = Run.create(tmp_path / "run", {})
    model = torch.nn.ParameterDict({"w": torch.zeros(100)})
    with pytest.raises(Problem, match="has no checkpoint yet"):
        run.load(model)
    for step in (1, 2, 3):
        save(run, step, float(step), keep=3)
    assert run.load(model, "model")["step"] == 3 and model["w"][0] == 3
    assert run.load(model, "ema", step=1)["step"] == 1 and model["w"][0] == -1
    with pytest.raises(UsageProblem, match=r"no checkpoint of step 7; it has \[1, 2, 3\]"):
        run.load(model, step=7)
    with pytest.raises(Problem, match=r"holds no 'ema-power-0\.100'; it holds: ema, model"):
        run.load(model, "ema-power-0.100")

    def damage(step, name, size):
        os.truncate(run.checkpoint_path(step) / name, size)

    damage(3, "model.safetensors", 300)
    with pytest.warns(UserWarning, match=r"step-00000003 is damaged: model.safetensors has 300 bytes of \d+"):
        assert run.load(model, "model")["step"] == 2
    with pytest.raises(Problem, match="step-00000003 is damaged"):
        run.load(model, step=3)
    damage(2, "state.json", 20)
    (run.checkpoint_path(1) / "ema.safetensors").unlink()
    with pytest.warns(UserWarning), pytest.raises(Problem, match=r"every checkpoint of .* is damaged"):
        run.load(model)


def test_one_flipped_bit_is_noticed(tmp_path):
    run = Run.create(tmp_path / "run", {})
    save(run, 1)
    file = run.checkpoint_path(1) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 64
    file.write_bytes(data)
    with pytest.raises(Problem, match=r"model.safetensors is not what was written"):
        run.load(torch.nn.ParameterDict({"w": torch.zeros(100)}), "model")


def test_another_model_is_told_by_what_differs(tmp_path):
    run = Run.create(tmp_path / "run", {})
    save(run, 1)
    for shape, names, sentence in [
        (7, ["w"], r"of another shape: w \(100,\) for \(7,\)"),
        (100, ["w", "a", "b", "c", "d"], r"missing: a, b, c and 1 more"),
        (100, ["v"], r"missing: v; unexpected: w"),
    ]:
        with pytest.raises(Problem, match=sentence):
            run.load(torch.nn.ParameterDict({name: torch.zeros(shape) for name in names}))


def test_averages_are_what_is_loaded(tmp_path):
    denoiser, _, run, _ = fit(tmp_path / "run", steps=5)
    fresh = Denoiser(seed=3)
    for weights, same in [("model", True), ("ema", False), ("ema-power-0.100", False)]:
        Run.open(run.path).load(fresh, weights)
        trained = denoiser.state_dict()["network.0.weight"]
        assert torch.equal(fresh.state_dict()["network.0.weight"], trained) is same
    Run.open(run.path).load(fresh)
    ema = fresh.state_dict()["network.0.weight"].clone()
    Run.open(run.path).load(fresh, "ema")
    assert torch.equal(fresh.state_dict()["network.0.weight"], ema)  # "ema" is the default


def test_a_torn_line_of_metrics_is_dropped(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run.journal.append({"step": s, "loss": 1 / s, "grad_norm": float("inf")} for s in (1, 2, 3))
    with open(run.journal.path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in run.journal.read()] == [1, 2, 3]
    run.journal.cut(2)
    run.journal.append([{"step": 3, "loss": 5.0}])
    assert run.journal.path.read_text().count("\n") == 3
    lines = [json.loads(text) for text in run.journal.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[2]["loss"] == 5.0
    assert lines[0]["grad_norm"] is None


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    run = Run.create(tmp_path / "run", {})
    hold = "import sys; from unnoise.training import Run\nwith Run.open(sys.argv[1]).locked():\n print('in', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    with pytest.raises(Problem, match=f"is being trained by process {other.pid}"), run.locked():
        pass
    other.kill()
    other.wait()
    (run.path / "checkpoints" / ".step-00000001.part").mkdir()
    with run.locked():  # the lock of the dead is free, and what it left is swept away
        assert (run.path / "lock").read_text() == str(os.getpid())
    assert list((run.path / "checkpoints").iterdir()) == []
    with run.locked():
        pass


def test_a_checkpoint_takes_the_place_of_a_damaged_one(tmp_path):
    for value in (1.0, 2.0):
        write_checkpoint(
            tmp_path / "step-00000001", {"model": {"w": torch.tensor([value])}}, {"step": 1, "note": value}
        )
    assert read_state(tmp_path / "step-00000001")["note"] == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
