"""Hints: what they say of a picture is exact, what they hide they hide, and networks hear them."""

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.denoisers import NetworkDenoiser
from unnoise.denoisers import preconditioning as pre
from unnoise.errors import Problem, UsageProblem
from unnoise.hints import Hole, Smaller, boxes, strokes
from unnoise.networks import UNetOptions
from unnoise.networks.autoencoder import AutoencoderOptions
from unnoise.networks.concatenated import Concatenated
from unnoise.objectives import Encoded, Flipped, Hinted, Matching, UniformSteps
from unnoise.objectives.objective import Loss, Objective
from unnoise.processes import Gaussian
from unnoise.rng import Rng, stream
from unnoise.schedules import FromBetas, sqrt_linear_betas
from unnoise.spaces import Latents


def pictures(count=4, channels=3, size=(16, 16), seed=0):
    return 2 * torch.rand(count, channels, *size, generator=stream(seed)) - 1


@pytest.mark.parametrize("size", [(8, 8), (32, 24)])
def test_holes_leave_something_to_paint_and_something_to_go_by(size):
    hole = Hole().draw(size, Rng.from_seeds(range(1000)))
    share = hole.double().mean((1, 2, 3))
    assert hole.shape == (1000, 1, *size) and share.min() > 0 and share.max() < 1
    assert 0.1 < share.mean() < 0.5 and len(hole.flatten(1).unique(dim=0)) > 900


def test_a_hole_belongs_to_its_seed():
    together, alone = (Hole().draw((16, 16), Rng.from_seeds(seeds)) for seeds in ([3, 4, 5], [5]))
    assert torch.equal(together[2], alone[0]) and not torch.equal(together[1], together[2])


def test_boxes_lie_where_they_are_told():
    numbers = torch.zeros(2, 3, 5, dtype=torch.float64)
    numbers[:, 0, :4] = torch.tensor(
        [1.0, 0.0, 1.0, 0.0]
    )  # half as high as the picture, at its foot; 1/8 wide, at the left
    numbers[:, 1, :4] = torch.tensor([0.0, 0.0, 0.0, 1.0])  # one pixel of 8, at the upper right
    hole = boxes(numbers, torch.tensor([1, 2]), (8, 8))
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[:, 4:, 0] = True
    expected[1, 0, 7] = True
    assert torch.equal(hole, expected)


def test_strokes_are_what_lies_near_to_their_parts():
    numbers = torch.rand(50, 3, 5, generator=stream(1), dtype=torch.float64)
    corners = torch.arange(50) % 4
    hole = strokes(numbers, corners, (12, 16))
    place = torch.stack(torch.meshgrid((torch.arange(12) + 0.5) / 12, (torch.arange(16) + 0.5) / 16, indexing="ij"), -1)
    for row in (0, 17, 34, 49):
        points = numbers[row].flatten()[:10].view(5, 2)[: int(corners[row]) + 2]
        radius = max(1 / 16 + (1 / 6 - 1 / 16) * float(numbers[row, 2, 4]), 0.71 / 12)
        along = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
        parts = torch.cat([a + along * (b - a) for a, b in zip(points[:-1], points[1:], strict=True)])
        away = torch.cdist(place.reshape(-1, 2).double(), parts).min(1).values.view(12, 16)
        sure = (away - radius).abs() > 1e-6
        assert torch.equal(hole[row][sure], (away < radius)[sure]) and sure.double().mean() > 0.9


def test_a_picture_with_a_hole_tells_all_but_the_hole():
    x = pictures()
    told = Hole()(x, Rng.from_seeds(range(4)))
    hole = told["map"] > 0
    assert set(told) == set(Hole.parts) and told["map"].unique().tolist() == [-1, 1]
    assert torch.equal(told["picture"], torch.where(hole, -1.0, x))
    other = Hole()(torch.where(hole, -x, x), Rng.from_seeds(range(4)))
    assert all(torch.equal(other[name], told[name]) for name in told)
    painted = Hole().completed(torch.full_like(x, 0.5), told)
    assert torch.equal(painted, torch.where(hole, 0.5, x))


def test_smaller_is_bicubic_as_pillow_has_it():
    x = pictures(1, 1, (16, 24)) * 0.5  # far from the ends, so that nothing is clipped
    small = Smaller(4)(x, Rng.from_seeds([0]))["map"]
    theirs = Image.fromarray(x[0, 0].numpy(), "F").resize((6, 4), Image.Resampling.BICUBIC)
    torch.testing.assert_close(small[0, 0], torch.from_numpy(np.asarray(theirs).copy()), atol=1e-5, rtol=0)
    with pytest.raises(UsageProblem, match="cannot be made smaller by 5"):
        Smaller(5).channels((3, 16, 16), (3, 4, 4))
    with pytest.raises(UsageProblem, match="must be 2 or more"):
        Smaller(1)


def test_files_are_told_as_the_data_are(tmp_path):
    x = (pictures(1)[0] * 127.5 + 127.5).round().to(torch.uint8)
    alpha = torch.full((1, 16, 16), 255, dtype=torch.uint8)
    alpha[:, 4:8, 2:9] = 0

    def save(a, name="picture.png"):
        Image.fromarray(torch.cat([x, a]).permute(1, 2, 0).contiguous().numpy()).save(tmp_path / name)
        return str(tmp_path / name)

    told = Hole().read(save(alpha), (3, 16, 16))
    expected = Hole().told(x[None].float() / 127.5 - 1, alpha[None] == 0)
    assert all(torch.equal(told[name], expected[name][0]) for name in Hole.parts)
    small = Smaller(4).read(save(alpha * 0 + 255), (3, 64, 64))["map"]
    assert torch.equal(small, x.float() / 127.5 - 1)
    assert Smaller(4).read(save(alpha * 0 + 255), (1, 32, 32))["map"].shape == (1, 8, 8)
    with pytest.raises(UsageProblem, match="nowhere transparent"):
        Hole().read(save(alpha * 0 + 255), (3, 16, 16))
    with pytest.raises(UsageProblem, match="all transparent"):
        Hole().read(save(alpha * 0), (3, 16, 16))
    with pytest.raises(Problem, match="cannot be read"):
        Hole().read(str(tmp_path / "nothing.png"), (3, 16, 16))


NETWORK = UNetOptions(channels=16, mult=(1,), blocks=1, attention=())


def test_networks_hear_every_part_and_learn_from_it():
    network = Concatenated(NETWORK.build(3 + 3 + 1, 3), ("picture", "map"))
    torch.nn.init.normal_(network.network.head.weight, std=0.1, generator=stream(0))
    x, t = pictures(2, 3, (8, 8)), torch.tensor([0.2, 0.7])
    cond = {"picture": pictures(2, 3, (8, 8), 1), "map": pictures(2, 1, (16, 16), 2)}
    for value in cond.values():
        value.requires_grad_()
    network(x, t, cond).square().sum().backward()
    assert (cond["picture"].grad != 0).all()
    seen = cond["map"].grad != 0  # of two pixels, the nearest
    assert seen[:, :, ::2, ::2].all() and seen.double().mean() == 0.25
    assert (network.network.stem.weight.grad.abs().sum((0, 2, 3)) > 0).all()
    with pytest.raises(UsageProblem, match=r'is told a map, and was given none; give cond\["map"\]'):
        network(x, t, {"picture": cond["picture"]})


def test_a_space_tells_pictures_without_chance():
    space = Latents(AutoencoderOptions(channels=16, mult=(1, 2), middle_attention=False), 3)
    space.scale.fill_(2.5)
    x, low = pictures(), pictures(4, 3, (4, 4))
    told = space.told({"picture": x, "map": low})
    assert torch.equal(told["map"], low) and torch.equal(told["picture"], 2.5 * space.law(x).mean)
    assert space.told({"map": low})["map"] is low and space.told(None) is None
    mean = torch.stack([space.encode(x, Rng.from_seeds(range(4)).spawn(i)) for i in range(200)]).mean(0)
    torch.testing.assert_close(mean, told["picture"], atol=0.1, rtol=0)


class Seen(Objective):
    """Remembers what it was given."""

    def forward(self, denoiser, x0, cond, rng, turn="denoiser"):
        self.x0, self.cond = x0, cond
        return Loss(x0.flatten(1).mean(1))


def test_what_is_told_is_of_the_picture_as_it_is_trained_on():
    x, seen = pictures(16), Seen()
    denoiser = torch.nn.Module()
    denoiser.space = Latents(AutoencoderOptions(channels=16, mult=(1,), middle_attention=False), 3)
    objective = Flipped(Hinted(seen, Hole()))
    stale = {"picture": x, "map": x[:, :1], "label": torch.arange(16)}
    objective(denoiser, x, stale, Rng.from_seeds(range(16)))
    flipped = (seen.x0 != x).flatten(1).any(1)
    assert 0 < flipped.sum() < 16
    assert torch.equal(seen.cond["picture"], torch.where(seen.cond["map"] > 0, -1.0, seen.x0))
    assert torch.equal(seen.cond["label"], stale["label"])
    first = seen.cond["map"]
    objective(denoiser, x, None, Rng.from_seeds(range(16, 32)))
    assert not torch.equal(seen.cond["map"], first)
    Hinted(Encoded(seen), Hole())(
        denoiser, x, None, Rng.from_seeds(range(16))
    )  # the holes are drawn before the latents
    torch.testing.assert_close(
        seen.cond["picture"], denoiser.space.told(Hole()(x, Rng.from_seeds(range(16))))["picture"]
    )


def test_the_absolute_error_of_the_noise():
    process = Gaussian(FromBetas(sqrt_linear_betas(100)))
    denoiser = NetworkDenoiser(NETWORK.build(3), process, pre.DDPM(process.schedule))
    torch.nn.init.normal_(denoiser.network.head.weight, std=0.1, generator=stream(0))
    x0, seen = pictures(4, 3, (8, 8)), []
    denoiser.network.register_forward_hook(lambda m, inputs, output: seen.append((*inputs, output)))
    loss = Matching("eps", UniformSteps(100), norm="l1")(denoiser, x0, None, Rng.from_seeds(range(4)))
    (xt, _, _, guess), point = seen[0], process.at(loss.t, x0)
    eps = (xt - point.alpha * x0) / point.sigma
    torch.testing.assert_close(loss.per_example, (guess - eps).abs().mean((1, 2, 3)).float(), atol=1e-5, rtol=0)
    with pytest.raises(UsageProblem, match="absolute errors"):
        Matching("eps", UniformSteps(100), norm="l1").on_eps(process, loss.t)
    with pytest.raises(UsageProblem, match="unknown norm"):
        Matching("eps", UniformSteps(100), norm="l3")
