"""The order of the data: permutations end to end, the same however the batch is shared."""

import pytest
import torch
from training_toys import Rows

from unnoise.errors import Problem
from unnoise.training.feed import Order, feed


@pytest.mark.parametrize("size, batch", [(10, 3), (10, 10), (4, 11), (7, 1)])
def test_each_epoch_holds_every_example_once(size, batch):
    order = Order(size, batch, seed=3)
    seen = torch.cat([order.indices(step) for step in range(5 * size)])[: 5 * size].view(5, size)
    for epoch in seen:
        assert sorted(epoch.tolist()) == list(range(size))
    assert len({tuple(epoch.tolist()) for epoch in seen}) > 1  # and not always in the same order


def test_shares_make_up_the_global_batch():
    order = Order(10, 8, seed=0)
    for step in range(9):
        shares = [order.indices(step, places) for places in (range(0, 4), range(4, 5), range(5, 8))]
        assert torch.equal(torch.cat(shares), order.indices(step))


def test_another_seed_is_another_order():
    assert not torch.equal(Order(50, 50, 0).indices(0), Order(50, 50, 1).indices(0))


def test_feeding_starts_anywhere_and_looks_one_step_ahead():
    data, order = Rows(20), Order(20, 4, seed=1)
    batches = feed(data, order, 7, [range(0, 2), range(2, 4)])
    first, second = next(batches), next(batches)
    batches.close()
    assert torch.equal(torch.cat([b.x for b in first]), data.x[order.indices(7)])
    assert torch.equal(torch.cat([b.cond["label"] for b in second]), data.label[order.indices(8)])
    assert len(data.asked) in (4, 6)  # steps 7, 8 and perhaps the one that was being made


def test_a_problem_with_the_data_arrives():
    class Broken(Rows):
        def batch(self, indices):
            raise Problem("image 3 cannot be read")

    with pytest.raises(Problem, match="image 3"):
        next(feed(Broken(), Order(5, 2, 0), 0, [range(2)]))
