"""A U-Net that is told two times."""

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks import UNetOptions

OPTIONS = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(), middle_attention=False, second_time=True)


def awake(network, seed=1):
    """The network with weights in its last layers, which start at 0."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_it_hears_both_times():
    network, x = awake(OPTIONS.build(1)), torch.ones(2, 1, 4, 4)
    t, s = torch.tensor([0.3, 0.3]), torch.tensor([-1.0, 0.2])
    one, other = network(x, t, {"toward": s})
    assert not torch.allclose(one, other, atol=1e-3)
    torch.testing.assert_close(network(x, t), network(x, t, {"toward": t}))


def test_the_second_time_has_the_first_ones_features_and_columns_of_its_own():
    network = OPTIONS.build(1)
    own = dict(network.named_parameters())
    plain = dict(
        UNetOptions(channels=16, mult=(1,), blocks=1, attention=(), middle_attention=False).build(1).named_parameters()
    )
    new = {name for name in own if name not in plain}
    assert new == {f"embedding.second.{layer}.{kind}" for layer in ("inner", "outer") for kind in ("weight", "bias")}
    wider = {name for name in plain if own[name].shape != plain[name].shape}
    assert wider == {name for name in plain if name.endswith("affine.weight")}
    assert all(own[name].shape[1] == 2 * plain[name].shape[1] for name in wider)


def test_a_second_time_that_was_not_asked_for_is_refused():
    network = UNetOptions(channels=16, mult=(1,), blocks=1, attention=()).build(1)
    with pytest.raises(UsageProblem, match="build it with second_time"):
        network(torch.ones(1, 1, 4, 4), torch.zeros(1), {"toward": torch.zeros(1)})
