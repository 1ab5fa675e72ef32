"""SEDD on a small language of its own: it learns, goes on with prompts, fills gaps, and is measured by the one call."""

import json
import math

import pytest
import torch

from unnoise.cli import main
from unnoise.data import load
from unnoise.errors import Problem, UsageProblem
from unnoise.kinds.text import Text
from unnoise.likelihood import Continuous, likelihood
from unnoise.model import Model, train_model
from unnoise.networks import TransformerOptions
from unnoise.papers.sedd import SEDD, SMALL
from unnoise.processes import AbsorbGraph, UniformGraph
from unnoise.recipe import Spec
from unnoise.rng import stream
from unnoise.training import TrainingOptions

WORDS = ("dune", "lamp", "fork", "isle", "chip")


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """Words of four letters in any order, and its entropy: log2(5) bits in five characters."""
    chosen = torch.randint(5, (6000,), generator=stream(31)).tolist()
    path = tmp_path_factory.mktemp("language") / "words.txt"
    path.write_text(" ".join(WORDS[i] for i in chosen))
    return path


@pytest.fixture(scope="module")
def run(language, tmp_path_factory):
    training = TrainingOptions(
        steps=300, batch_size=64, lr=4e-3, warmup=20, decay="linear", ema=2000, precision="fp32", checkpoint_every=300
    )
    network = TransformerOptions(width=48, depth=2, heads=2, features=16, told=32)
    recipe = SEDD(data=str(language), network=network, training=training, sampling_steps=20)
    path = tmp_path_factory.mktemp("runs") / "run"
    train_model(recipe, load(language, size=20), path, preview=True)
    return path


def test_it_learns_a_language(run, language):
    model = Model.load(run)
    held_out = load(language, "held-out", size=20)
    x = held_out.batch(range(64)).x
    found = likelihood(model, x, Continuous(draws=24))
    letters = torch.bincount(x.flatten(), minlength=27).double() / x.numel()
    by_letter = -float((letters[letters > 0] * letters[letters > 0].log2()).sum())
    entropy = math.log2(5) / 5
    assert entropy - 0.05 < float(found.bits.mean()) < 0.45 * by_letter
    words = [w for row in model.sample(range(40)) for w in Text().words(row, model.spec).split(" ")[1:-1]]
    assert sum(w in WORDS for w in words) > 0.25 * len(words)  # of letters drawn by frequency: about none
    assert torch.equal(model.sample([5])[0], model.sample(range(4, 8))[1])


def test_prompts_and_gaps_are_kept_and_gone_on_with(run):
    model = Model.load(run)
    rows = [Text().words(row, model.spec) for row in model.sample(range(20), prompt="dune l___ fork")]
    assert all(row[:6] == "dune l" and row[9:14] == " fork" for row in rows)
    assert sum(row[6:9] == "amp" for row in rows) > 8  # by chance: none
    with pytest.raises(Problem, match="'D'"):
        model.sample([0], prompt="Dune")


def test_commands(run, tmp_path, capsys):
    assert main(["sample", str(run), "--count", "3", "--prompt", "isle ", "--out", str(tmp_path / "out")]) in (0, None)
    files = sorted((tmp_path / "out" / "images").glob("*.txt")) or sorted((tmp_path / "out").rglob("*.txt"))
    assert files and any(file.read_text().startswith("isle ") for file in files)
    capsys.readouterr()
    assert main(["likelihood", str(run), "--method", "continuous", "--count", "4", "--draws", "4", "--json"]) in (
        0,
        None,
    )
    told = json.loads(capsys.readouterr().out)
    assert told["method"]["name"] == "continuous" and 0 < told["bits"] < 5


def test_every_option_has_a_flag_of_its_own(capsys):
    assert main(["train", "sedd", "--help"]) in (0, None)
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("--graph", "--left", "--normalised", "--eps", "--network.width"))


def test_published_network_has_its_size():
    """Of GPT-2's tokens: 12 blocks of 768, embedding and output apart."""
    spec = Spec((1024,), kind="text", alphabet=tuple(str(i) for i in range(50_257)))
    with torch.device("meta"):
        denoiser = SEDD.paper().denoiser(spec)
        logits = denoiser.network(torch.zeros(1, 1024, dtype=torch.int64), torch.zeros(1))
    assert logits.shape == (1, 1024, 50_257)
    total = sum(p.numel() for p in denoiser.parameters())
    ends = 768 * (2 * 50_257 + 1) + 50_257
    block = 12 * 768**2 + 5 * 768 + 129 * 6 * 768
    told = 257 * 128 + 129 * 128 + 129 * 2 * 768
    assert total == ends + 12 * block + told == 169_607_249
    assert SEDD.paper().network == SMALL


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_the_alphabet_is_that_of_the_text(graph):
    spec = Spec((8,), kind="text", alphabet=("a", "b", "c"))
    process = SEDD(graph=graph).denoiser(spec).process
    assert process.graph.tokens == 3 and isinstance(process.graph, AbsorbGraph if graph == "absorb" else UniformGraph)


def test_options_that_do_not_fit():
    with pytest.raises(UsageProblem, match="absorbing graph"):
        SEDD(graph="uniform", normalised=True)
    with pytest.raises(UsageProblem, match="backwards"):
        SEDD(flip=True)
    with pytest.raises(UsageProblem, match="fraction of tokens"):
        SEDD(eps=2.0)
    with pytest.raises(UsageProblem, match="no labels"):
        SEDD(conditional=True).denoiser(Spec((8,), kind="text", alphabet=("a", "b")))
