"""Fixed-size batches: padded, halved under memory pressure, in order."""

import pytest
import torch

from deephotlink.models.batches import best_device, forward_in_batches


def test_every_batch_has_the_same_shape_and_answers_keep_their_order():
    shapes = []

    def forward(x):
        shapes.append(tuple(x.shape))
        return x.sum(1)

    rows = torch.arange(22.0).reshape(11, 2)
    assert torch.equal(forward_in_batches(forward, rows, 4, "cpu"), rows.sum(1))
    assert shapes == [(4, 2)] * 3


def test_out_of_memory_halves_and_goes_on():
    sizes = []

    def forward(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x[:, 0]

    rows = torch.arange(7.0)[:, None]
    assert torch.equal(forward_in_batches(forward, rows, 8, "cpu"), rows[:, 0])
    assert sizes == [8, 4, 2, 2, 2, 2]


def test_one_row_too_big_is_raised():
    def forward(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        forward_in_batches(forward, torch.zeros(3, 1), 4, "cpu")


def test_rows_and_sizes_are_checked():
    with pytest.raises(ValueError, match="expected rows"):
        forward_in_batches(lambda x: x, torch.zeros(0, 1), 4, "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_named_device_that_is_not_there_is_refused():
    assert best_device() == "cpu"
    with pytest.raises(ValueError, match="--device"):
        best_device("cuda:0")
