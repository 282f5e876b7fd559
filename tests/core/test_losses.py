"""The weighted loss: with weights of one the plain cross-entropy, and blind to what is not annotated."""

import math

import pytest
import torch
from torch.nn import functional as F

from napari_tally.core.losses import weighted_cross_entropy


@pytest.fixture
def logits():
    return torch.randn(2, 3, 8, 9, generator=torch.manual_seed(0), requires_grad=True)


@pytest.fixture
def classes():
    return torch.randint(-1, 3, (2, 8, 9), generator=torch.manual_seed(1))


def test_weights_of_one_are_the_plain_cross_entropy(logits, classes):
    ones = torch.ones(classes.shape)
    torch.testing.assert_close(weighted_cross_entropy(logits, classes, ones), F.cross_entropy(logits, classes, ignore_index=-1))
    torch.testing.assert_close(weighted_cross_entropy(logits, classes, 7 * ones), F.cross_entropy(logits, classes, ignore_index=-1))


def test_class_weights_are_those_of_torch(logits, classes):
    w = torch.tensor([0.5, 1.0, 4.0])
    ours = weighted_cross_entropy(logits, classes, w[classes.clamp_min(0)])
    torch.testing.assert_close(ours, F.cross_entropy(logits, classes, weight=w, ignore_index=-1))


def test_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3), 5.0]], [[0.0, 0.0, -5.0]]]])  # p(0) = 1/2, 3/4, not annotated
    classes = torch.tensor([[[0, 1, -1]]])
    weights = torch.tensor([[[1.0, 3.0, 100.0]]])
    expected = (1 * math.log(2) + 3 * math.log(4)) / 4
    assert weighted_cross_entropy(logits, classes, weights).item() == pytest.approx(expected)


def test_no_gradient_where_nothing_is_annotated(logits, classes):
    weighted_cross_entropy(logits, classes, torch.rand(classes.shape) + 0.1).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, classes >= 0)


def test_nothing_annotated_is_no_loss(logits):
    loss = weighted_cross_entropy(logits, torch.full((2, 8, 9), -1), torch.ones(2, 8, 9))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_half_precision_is_lifted(logits, classes):
    loss = weighted_cross_entropy(1000 * logits.half(), classes, torch.ones(classes.shape))
    assert loss.dtype == torch.float32
    assert loss.isfinite()
