"""Where models run: on the best device by default, and never on another than the one named."""

import pytest
import torch

from deephotlink.models.devices import best_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_named_device_that_is_not_there_is_refused():
    assert best_device() == best_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="--device"):
        best_device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:first", "", "mps "])
def test_a_kind_of_device_that_is_not_known_is_refused(name):
    with pytest.raises(ValueError, match="expected auto, cpu"):
        best_device(name)
