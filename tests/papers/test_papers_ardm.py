"""ARDM: it learns text in seconds, says how likely it is, writes, goes on, fills gaps, and compresses files without loss."""

import json
from dataclasses import replace

import pytest
import torch

from unnoise.cli import main
from unnoise.compression import compress, decompress
from unnoise.data import load
from unnoise.errors import Problem, UsageProblem
from unnoise.kinds.text import Text
from unnoise.likelihood import likelihood
from unnoise.likelihood.orders import OrderAgnostic
from unnoise.model import Model, train_model
from unnoise.networks import TransformerOptions, UNetOptions, WaveNetOptions
from unnoise.papers.ardm import ARDM
from unnoise.recipe import Sampling, Spec
from unnoise.samplers import Ancestral, Policy, Uniform
from unnoise.training import TrainingOptions

torch.set_num_threads(1)
SMALL = TransformerOptions(width=32, depth=2, heads=2, told=32)
QUICK = TrainingOptions(steps=120, batch_size=32, lr=5e-3, ema=2000, precision="fp32", checkpoint_every=60)
SONG = "the quick brown fox jumps over the lazy dog and the lazy dog sleeps on " * 60


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("song") / "song.txt"
    path.write_text(SONG)
    return path


@pytest.fixture(scope="module")
def run(song, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "ardm"
    train_model(ARDM(data=str(song), network=SMALL, training=QUICK), load(song, size=16), out, preview=False)
    return out


@pytest.fixture(scope="module")
def model(run):
    return Model.load(run)


def words(model, x):
    return [Text().words(row, model.spec) for row in x]


def held_out(song):
    data = load(song, "held-out", size=16)
    return data.batch(range(len(data))).x


def test_it_learns_text_in_seconds(model, song):
    """Below the entropy of its letters, which is what a network that learned their frequencies would need."""
    bits = likelihood(model, held_out(song), OrderAgnostic(16)).bits.mean()
    p = torch.bincount(load(song).batch(range(100)).x.flatten()).double()
    p = p[p > 0] / p.sum()
    assert bits < 0.7 * float(-(p * p.log2()).sum())
    assert bool((model.denoiser.process.seen > 0).all())


def test_from_left_to_right_it_learns_too(song, tmp_path):
    recipe = ARDM(data=str(song), order="left-to-right", network=SMALL, training=QUICK)
    model, _ = train_model(recipe, load(song, size=16), tmp_path / "run", preview=False)
    assert model.recipe.labelled is False
    assert likelihood(model, held_out(song), "order-agnostic").bits.mean() < 2.8
    content = SONG[:80].encode()
    assert decompress(model, compress(model, content).content) == content
    assert Text().words(model.sample([0], prompt="the quick ")[0], model.spec).startswith("the quick ")


def test_samples_belong_to_their_seeds_on_every_schedule(model):
    for sampling in (None, Sampling(Ancestral(), Policy(4)), Sampling(Ancestral(), Uniform(5))):
        x = model.sample(range(4), sampling)
        assert x.shape == (4, 16) and x.dtype == torch.int64 and x.max() < 27
        assert torch.equal(model.sample([2], sampling)[0], x[2])


def test_prompts_and_gaps_are_kept(model):
    for prompt in ("the lazy ", "the ____ dog", "________________", "quick brown fox "):
        for text in words(model, model.sample(range(3), prompt=prompt)):
            assert len(text) == 16 and all(b in ("_", a) for a, b in zip(text, prompt, strict=False))
    with pytest.raises(UsageProblem, match="shorten it"):
        model.sample([0], prompt="a" * 17)
    with pytest.raises(Problem, match="none of the 27"):
        model.sample([0], prompt="Caf\u00e9")


def test_what_it_knows_of_steps_is_kept_with_the_run(run):
    a, b = Model.load(run), Model.load(run, "model")
    assert torch.equal(a.denoiser.process.losses, b.denoiser.process.losses)
    losses = a.denoiser.process.losses[0]
    assert losses[:4].mean() > losses[-4:].mean() > 0


@pytest.mark.parametrize("steps", [None, 1, 5])
def test_files_come_back_bit_for_bit(model, steps):
    for text in (SONG[:700], SONG[:1], "", "Caf\u00e9 No. 5,\n\n\tand the  DOG \u2014 \U0001f600!" + SONG[:100]):
        content = text.encode()
        packed = compress(model, content, steps)
        assert decompress(model, packed.content) == content
    for content in (b"\xff\xfe\x00 no text at all", bytes(range(256))):
        assert decompress(model, compress(model, content, steps).content) == content


def test_a_file_takes_the_bits_that_the_model_says(model):
    """-log2 p in the order of the code, within 1 % and 64 bits; and less than zlib."""
    import zlib

    from unnoise.papers.ardm import _code_length

    content = SONG[: 16 * 64].encode()
    packed = compress(model, content)
    x = torch.stack([Text().tokens(SONG[i : i + 16], model.spec) for i in range(0, 16 * 64, 16)])
    assert abs(packed.bits - _code_length(model, x)) < 0.01 * packed.bits + 64
    assert compress(model, content, 2).bits > packed.bits
    english = load("state-of-the-union", "held-out", size=64).batch(range(8)).x
    text = "".join(words(model, english)).encode()
    assert packed.symbols == 1024 and len(packed.content) < 1024 * 27 / 32
    assert decompress(model, compress(model, text).content) == text
    assert len(zlib.compress(text, 9)) > 0


def test_damaged_files_and_other_weights_are_told(model, run, tmp_path):
    packed = compress(model, SONG[:300].encode()).content
    broken = bytearray(packed)
    broken[-8] ^= 255
    with pytest.raises(Problem, match=r"damaged|as it was"):
        decompress(model, bytes(broken))
    with pytest.raises(Problem, match="no file that"):
        decompress(model, b"something else")
    with pytest.raises(Problem, match="other weights"):
        decompress(Model.load(run, "model"), packed)
    with pytest.raises(UsageProblem, match="takes from 1 to 16"):
        compress(model, b"abc", 17)


def test_the_commands(run, song, tmp_path, capsys):
    file = tmp_path / "letter.txt"
    file.write_bytes(b"Dear dog,\nsleep on.\n")
    assert main(["compress", str(run), str(file)]) == 0
    assert "bits a symbol" in capsys.readouterr().out
    assert main(["decompress", str(run), f"{file}.unz", "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert main(["compress", str(run), str(file)]) == 2  # the result is there already
    assert main(["compress", str(run), str(tmp_path / "nothing")]) == 1
    capsys.readouterr()
    assert main(["likelihood", str(run), "--count", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["method"]["name"] == "order-agnostic" and 0 < told["bits"] < 3
    out = tmp_path / "samples"
    assert main(["sample", str(run), "--count", "3", "--grid", "policy", "--steps", "4", "--out", str(out)]) == 0
    assert main(["sample", str(run), "--count", "2", "--prompt", "the lazy ", "--out", str(tmp_path / "more")]) == 0
    texts = [path.read_text() for path in (tmp_path / "more").rglob("*.txt") if path.name != "grid.txt"]
    assert len(texts) == 2 and all(text.startswith("the lazy ") for text in texts)


def test_images_are_symbols_too(tmp_path):
    training = replace(QUICK, steps=60, checkpoint_every=60)
    for options in ({}, {"branching": 4}, {"branching": 5, "parametrisation": "direct"}):
        recipe = ARDM(data="digits", network=SMALL, training=training, **options)
        model, _ = train_model(recipe, load("digits"), tmp_path / str(len(options)), preview=False)
        assert model.recipe.total == model.denoiser.process.steps
        x = load("digits", "held-out").batch(range(16)).x
        assert likelihood(model, x, OrderAgnostic(16)).bits.mean() < 3.6  # 4.09 if all levels were as likely
        images = model.sample(range(2), Sampling(Ancestral(), Uniform(model.denoiser.process.stages * 4)))
        assert images.shape == (2, 1, 8, 8) and images.abs().max() <= 1
        assert torch.allclose((images + 1) * 8, ((images + 1) * 8).round(), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"branching": 5}])
def test_a_unet_learns_images(options, tmp_path):
    network = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(1,), conditioning="add")
    recipe = ARDM(data="digits", body="unet", unet=network, training=replace(QUICK, steps=60), **options)
    model, _ = train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    x = load("digits", "held-out").batch(range(32)).x
    assert likelihood(model, x, OrderAgnostic(16)).bits.mean() < 3.4  # 4.09 if all levels were as likely
    images = model.sample(range(2), Sampling(Ancestral(), Uniform(8)))
    assert torch.allclose((images + 1) * 8, ((images + 1) * 8).round(), atol=1e-5)


@pytest.mark.parametrize("options", [{"bits": 5}, {"branching": 2, "parametrisation": "direct"}])
def test_a_wavenet_learns_sounds(options, tmp_path):
    network = WaveNetOptions(channels=16, layers=5, cycle=5)
    training = replace(QUICK, steps=80, batch_size=16)
    recipe = ARDM(data="spoken-digits", body="wavenet", wavenet=network, training=training, **options)
    model, _ = train_model(recipe, load("spoken-digits", size=512), tmp_path / "run", preview=False)
    x = load("spoken-digits", "held-out", size=512).batch(range(0, 120, 4)).x
    assert (
        likelihood(model, x, OrderAgnostic(16)).bits.mean() < 0.85 * recipe.bits
    )  # all, if all samples were as likely
    sounds = model.sample(range(2), Sampling(Ancestral(), Uniform(16)))
    assert sounds.shape == (2, 1, 512) and sounds.unique().numel() > 4
    assert torch.equal(sounds * 2 ** (recipe.bits - 1), (sounds * 2 ** (recipe.bits - 1)).round())


@pytest.mark.parametrize(
    ("name", "spec", "stages", "steps"),
    [
        ("paper", Spec((250,), kind="text", alphabet=tuple("abcdefghijklmnopqrstuvwxyz ")), 1, 250),
        ("paper-cifar10", Spec((3, 32, 32)), 4, 12_288),
        ("paper-sc09", Spec((1, 16_000), kind="sound", rate=16_000), 16, 256_000),
    ],
)
def test_the_published_networks(name, spec, stages, steps):
    """They are built without memory, take a batch and give a loss of it."""
    recipe = ARDM.preset(name)
    assert ARDM.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert recipe.fitted(spec).total == recipe.total == steps
    with torch.device("meta"):
        denoiser = recipe.denoiser(spec)
        process = denoiser.process
        shape = (2, *spec.shape)
        symbol = torch.zeros(shape, dtype=torch.int64)
        logits = denoiser.logits(symbol, symbol, torch.ones(2))
    assert (process.stages, process.steps) == (stages, steps)
    assert logits.shape == (*shape, process.stages * 2 if recipe.parametrisation == "direct" else process.tokens)


def test_options_that_do_not_fit_are_told():
    with pytest.raises(UsageProblem, match="causal network"):
        ARDM(order="left-to-right", body="unet")
    with pytest.raises(UsageProblem, match="from 1 to 16"):
        ARDM(bits=17)
    with pytest.raises(UsageProblem, match="take body wavenet or transformer"):
        ARDM(body="unet").denoiser(Spec((1, 64), kind="sound", rate=8000))
    with pytest.raises(UsageProblem, match="leave body out"):
        ARDM(body="wavenet").denoiser(Spec((16,), kind="text", alphabet=tuple("ab")))
    with pytest.raises(UsageProblem, match="whole symbols"):
        ARDM(order="left-to-right", branching=4)
    with pytest.raises(UsageProblem, match="of digits"):
        ARDM(parametrisation="direct")
    with pytest.raises(UsageProblem, match="0 or more"):
        ARDM(sampling_steps=-1)
    with pytest.raises(UsageProblem, match="no labels"):
        ARDM(conditional=True).denoiser(Spec((16,), kind="text", alphabet=tuple("ab")))
    with pytest.raises(UsageProblem, match="knows images"):
        ARDM().prompt(Spec((1, 8, 8)), "a")
    with pytest.raises(UsageProblem, match="masks the symbols of a text"):
        compress(Model(ARDM(network=SMALL), Spec((1, 4, 4), levels=5)), b"abc")
