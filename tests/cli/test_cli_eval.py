"""Scores from the command line, and what the other commands print for machines."""

import json
from dataclasses import replace

import numpy as np
import pytest

from unnoise.cli import main
from unnoise.data import load
from unnoise.data.pictures import save_png
from unnoise.training import Run


def test_eval_of_a_run_writes_what_it_prints(cli, edm):
    words = ["eval", edm, "--count", "60", "--steps", "2", "--bootstrap", "5", "--features", "pixels"]
    code, out, _ = cli(*words, "--json")
    printed, written = json.loads(out), json.loads((edm / "eval.json").read_text())
    assert code == 0 and printed.items() <= written.items() and written["command"].startswith("unnoise eval")
    row = printed["metrics"]["sliced_wasserstein[pixels]"]
    assert row["count"] == 60 and 0 < row["floor"] < row["value"] and row["low"] < row["value"] < row["high"]
    assert printed["run"]["step"] == 4 and printed["sampling"]["steps"] == 2 and printed["data"] == "digits"
    code, out, _ = cli(*words)
    assert code == 0 and "sliced_wasserstein" in out and "floor" in out and "60 samples" in out


def test_held_out_images_score_as_the_floor(cli, tmp_path):
    """The same held-out digits as files, one way and another: their distance is the floor itself, to the last digit."""
    images = load("digits", "held-out").images()
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(images):
        save_png(image, tmp_path / "pictures" / f"{i:04d}.png")
    np.savez(tmp_path / "channels_last.npz", arr_0=images.permute(0, 2, 3, 1).numpy(), labels=np.zeros(len(images)))
    reports = []
    for what in ("pictures", "channels_last.npz"):
        code, out, _ = cli("eval", what, "--data", "digits", "--bootstrap", "0", "--json")
        assert code == 0
        reports.append(json.loads(out)["metrics"])
    assert reports[0] == reports[1]
    for row in reports[0].values():
        assert row["value"] == pytest.approx(row["floor"], rel=1e-9, abs=1e-12), row
    assert {"frechet[classifier:digits]", "nearest_train_ratio[pixels]"} <= reports[0].keys()


def test_papers_cite_and_data_for_machines(cli, tmp_path):
    from unnoise.papers import slugs

    (tmp_path / "results").mkdir()
    verdicts = ["reproduced", "reproduced", "not reproduced", "not testable at this scale"]
    record = {"checks": [{"holds": True}], "claims": [{"verdict": verdict} for verdict in verdicts]}
    (tmp_path / "results" / "ddpm.json").write_text(json.dumps(record))
    (tmp_path / "results" / "edm.json").write_text("{")  # a broken file is no reason to fail
    code, out, _ = cli("papers", "--json")
    rows = {row["paper"]: row for row in json.loads(out)}
    assert code == 0 and sorted(rows) == slugs()
    assert rows["ddpm"]["verified"] == {"checks": 1, "hold": 1, "reproduced": 2, "not reproduced": 1,
                                        "not testable at this scale": 1}  # fmt: skip
    assert rows["edm"]["verified"] is None and rows["edm"]["year"] == 2022
    assert "2 / 1 / 1" in cli("papers")[1]
    code, out, _ = cli("cite", "edm")
    assert code == 0 and out.startswith("@misc{karras2022edm,") and "2206.00364" in out
    rows = {row["name"]: row for row in json.loads(cli("data", "list", "--json")[1])}
    assert rows["digits"]["here"] and rows["digits"]["train"] == 1504
    assert cli("data", "get", "digits")[1] == "digits is built in; there is nothing to fetch\n"


def test_verify_measures_and_writes(cli, tmp_path, monkeypatch):
    from unnoise.papers import find
    from unnoise.verify import Check, Claim, Finding

    ddpm, info = find("ddpm"), find("ddpm").info

    def declare(checks):
        claims = [
            Claim("better", "a is better", "table 1", better),
            Claim("", "at scale", "table 2", None, "too large"),
        ]
        monkeypatch.setattr(ddpm, "info", replace(info, claims=claims, checks=checks))

    ran = []

    def better(lab):
        ran.append(lab.seeds)
        return Finding.over_seeds([0.5, 0.25], {"a": [1, 2]})

    declare([Check("two", "1 + 1 is 2", "eq. 1", 0.0, lambda: (1 + 1, 2))])
    code, out, err = cli("verify", "ddpm", "--json", "--seeds", "4,5")
    record = json.loads(out)
    assert code == 0 and ran == [(4, 5)] and "a is better" in err
    assert [claim["verdict"] for claim in record["claims"]] == ["reproduced", "not testable at this scale"]
    assert record["checks"][0]["holds"] and record["command"] == "unnoise verify ddpm --json --seeds 4,5"
    assert json.loads((tmp_path / "results" / "ddpm.json").read_text()) == record
    code, out, _ = cli("verify", "ddpm", "--only", "better", "--seeds", "4,5")
    assert code == 0 and "reproduced: a is better" in out and len(ran) == 1  # measured before
    assert cli("verify", "ddpm", "--only", "better", "--seeds", "4,5", "--fresh")[0] == 0 and len(ran) == 2
    declare([Check("two", "1 + 1 is 3", "eq. 1", 0.0, lambda: (1 + 1, 3))])
    code, out, _ = cli("verify", "ddpm", "--only", "better")
    assert code == 1 and "FAIL 1 + 1 is 3" in out


def test_a_claim_that_breaks_off_does_not_stop_those_after_it(cli, monkeypatch):
    from unnoise.errors import Diverged, Problem
    from unnoise.papers import find
    from unnoise.verify import Claim, Finding

    ddpm, info = find("ddpm"), find("ddpm").info
    tries = []

    def breaks(lab):
        tries.append(lab)
        raise Diverged("the loss is not a number at step 3; lower --training.lr")

    def holds(lab):
        return Finding.computed([1.0], {})

    claims = [Claim("breaks", "a", "table 1", breaks), Claim("holds", "b", "table 2", holds)]
    monkeypatch.setattr(ddpm, "info", replace(info, claims=claims, checks=[]))
    code, out, _ = cli("verify", "ddpm")
    assert code == 1 and "failed: a" in out and "lower --training.lr" in out and "reproduced: b" in out
    assert cli("verify", "ddpm")[0] == 1 and len(tries) == 2  # a failure is not kept

    def stops(lab):
        raise Problem("stopped by SIGTERM; everything is saved")

    monkeypatch.setattr(ddpm, "info", replace(info, claims=[replace(claims[0], measure=stops), claims[1]], checks=[]))
    code, out, err = cli("verify", "ddpm")
    assert code == 1 and "reproduced" not in out and "unnoise: stopped by SIGTERM" in err


def test_the_demo_ends_with_pictures_and_scores_and_goes_on_when_stopped(cli, tmp_path, monkeypatch):
    from unnoise.papers import find

    edm = find("edm")
    small = edm.laptop()
    small = replace(
        small, network=replace(small.network, channels=8, mult=(1,), blocks=1, attention=()), sampling_steps=2
    )
    monkeypatch.setattr(edm, "laptop", classmethod(lambda cls: small))
    words = ["demo", "--minutes", "0.05", "--data", "digits", "--count", "200"]
    code, out, err = cli(*words)
    assert code == 0, err
    for words_of_it in (
        "EDM learns digits",
        "recognised as their class",
        "Frechet distance",
        "runs/demo-1/samples.png",
    ):
        assert words_of_it in out
    run = tmp_path / "runs" / "demo-1"
    assert (run / "samples.png").exists() and (run / "pictures" / "loss.png").exists()
    steps = Run.open(run).steps()[-1]
    (run / "eval.json").unlink()  # as if it had been stopped while scoring: it goes on with the same run
    assert main(words) == 0
    assert (run / "eval.json").exists() and Run.open(run).steps()[-1] == steps and not (run.parent / "demo-2").exists()
    assert main(words) == 0 and (run.parent / "demo-2" / "eval.json").exists()
