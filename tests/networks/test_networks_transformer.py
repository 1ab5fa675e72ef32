"""The transformer, against the same function written another way: complex rotations, one head and one place at a time."""

import cmath
import math
from dataclasses import asdict, replace

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks import TransformerOptions
from unnoise.networks.attention import attend
from unnoise.networks.transformer import rotate, rotations

SMALL = TransformerOptions(width=16, depth=2, heads=2, features=8, told=8)


def shaken(network, seed=0):
    """With weights other than the zeros it starts with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return network.double().eval()


def turned(vector, place):
    """The rotary position as a product of complex numbers, one by one."""
    half = len(vector) // 2
    pairs = [complex(vector[i], vector[i + half]) for i in range(half)]
    pairs = [z * cmath.exp(1j * place * 10000 ** (-i / half)) for i, z in enumerate(pairs)]
    return torch.tensor([z.real for z in pairs] + [z.imag for z in pairs], dtype=torch.float64)


def by_hand(network, x, t, label=None):
    """One example through a network of symbols, in loops."""
    weights, o = dict(network.named_parameters()), network.options
    d = o.width // o.heads

    def linear(name, h):
        h = weights[f"{name}.weight"] @ h
        return h + weights[f"{name}.bias"] if f"{name}.bias" in weights else h

    def norm(h):
        return (h - h.mean()) / ((h - h.mean()).square().mean() + 1e-5).sqrt()

    def gelu(h):
        return 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))

    def silu(h):
        return h / (1 + torch.exp(-h))

    f = [10000 ** (-2 * i / o.features) for i in range(o.features // 2)]
    waves = [math.cos(t * w) for w in f] + [math.sin(t * w) for w in f]
    emb = linear("embedding.outer", silu(linear("embedding.inner", torch.tensor(waves, dtype=torch.float64))))
    if label is not None:
        emb = emb + weights["embedding.labels.rows.weight"][label]
    emb = silu(emb)
    hs = [weights["stem.weight"][symbol] for symbol in x]
    for block in (f"blocks.{i}" for i in range(o.depth)):
        a, b, g, a2, b2, g2 = linear(f"{block}.affine", emb).chunk(6)
        qkv = [linear(f"{block}.qkv", norm(h) * (1 + a) + b) for h in hs]
        found = [[] for _ in hs]
        for head in range(o.heads):
            q, k, v = ([z[part * o.width + head * d :][:d] for z in qkv] for part in range(3))
            for i in range(len(hs)):
                seen = range(i + 1) if o.causal else range(len(hs))
                w = [math.exp(float(turned(q[i], i) @ turned(k[j], j)) / math.sqrt(d)) for j in seen]
                found[i].append(sum(w[j] * v[j] for j in seen) / sum(w))
        hs = [h + g * linear(f"{block}.proj", torch.cat(z)) for h, z in zip(hs, found, strict=True)]
        hs = [h + g2 * linear(f"{block}.outer", gelu(linear(f"{block}.inner", norm(h) * (1 + a2) + b2))) for h in hs]
    a, b = linear("affine", emb).chunk(2)
    return torch.stack([linear("head", norm(h) * (1 + a) + b) for h in hs])


@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_formulas_in_loops(causal):
    network = shaken(TransformerOptions(**{**asdict(SMALL), "causal": causal}).build(5, 4, num_classes=3))
    x = torch.tensor([[0, 4, 2, 2, 1, 3], [1, 1, 0, 3, 4, 4]])
    t = torch.tensor([0.3, 5.0], dtype=torch.float64)
    with torch.no_grad():
        found = network(x, t, {"label": torch.tensor([2, -1])})
        for i, label in enumerate((2, 3)):  # the row behind the classes is that of no label
            wanted = by_hand(network, x[i].tolist(), float(t[i]), label)
            torch.testing.assert_close(found[i], wanted, rtol=1e-6, atol=1e-6)  # rotations are float32


def test_rotary_products_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 1, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    turns = rotations(12, 8)
    products = rotate(q.expand(1, 12, 8), turns)[0] @ rotate(k.expand(1, 12, 8), turns)[0].T
    for distance in range(-11, 12):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-6, atol=1e-6)
    assert (products[0] - products[0, 0]).abs().max() > 0.1  # and they do depend on it


def test_starts_at_zero_with_blocks_that_are_the_identity():
    network = SMALL.build(5)
    x, t = torch.tensor([[0, 1, 2, 3]]), torch.tensor([0.5])
    assert network(x, t).abs().max() == 0
    h = network.stem(x)
    turns = rotations(4, 8)
    assert torch.equal(network.blocks[0](h, network.embedding(t), turns), h)


def test_causal_hides_what_comes_later_and_nothing_else():
    x = torch.tensor([[0, 1, 2, 3, 4, 0]])
    changed = torch.tensor([[0, 1, 2, 4, 4, 0]])
    t = torch.tensor([0.5], dtype=torch.float64)
    with torch.no_grad():
        for causal in (True, False):
            network = shaken(TransformerOptions(**{**asdict(SMALL), "causal": causal}).build(5))
            moved = (network(x, t) - network(changed, t)).abs().amax(-1)[0]
            assert (moved[3:] > 1e-6).all()
            assert (moved[:3] > 1e-6).all() == (not causal)
            assert (moved[:3] == 0).all() == causal


def test_the_two_ways_to_attend_are_one():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(3, 7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    for causal in (False, True):
        fused = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(attend(q, k, v, causal), fused)


def test_vectors_of_any_length():
    network = shaken(SMALL.build(3, 2, vectors=True))
    generator = torch.Generator().manual_seed(3)
    for length in (1, 9):
        x = torch.randn(4, length, 3, generator=generator, dtype=torch.float64)
        assert network(x, torch.rand(4, dtype=torch.float64)).shape == (4, length, 2)


def test_learns_what_stood_two_places_before():
    """Which needs positions: without them every place would see the same."""
    torch.manual_seed(0)
    network = TransformerOptions(width=32, depth=2, heads=2).build(4)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        x = torch.randint(4, (32, 8))
        loss = torch.nn.functional.cross_entropy(network(x, torch.zeros(32))[:, 2:].mT, x[:, :-2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(4), rel=1e-4)
    assert sum(losses[-10:]) / 10 < 0.3


def test_impossible_options():
    for options in ({"width": 18, "heads": 4}, {"depth": 0}, {"width": 12, "heads": 4}):
        with pytest.raises(UsageProblem, match="not possible"):
            TransformerOptions(**options).build(5)
    with pytest.raises(UsageProblem, match="labels"):
        SMALL.build(5)(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1), {"label": torch.zeros(1).long()})


def test_places_tell_equal_symbols_apart_and_distances_alone_do_not():
    """Of a sequence of one symbol, which is what a masked image is."""
    x, t = torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1).double()
    alike = shaken(SMALL.build(3))(x, t)
    assert torch.allclose(alike, alike[:, :1].expand_as(alike), atol=1e-10)
    apart = shaken(replace(SMALL, places=5).build(3))(x, t)
    assert torch.pdist(apart[0]).min() > 0.01
