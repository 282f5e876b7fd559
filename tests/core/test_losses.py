"""The losses: by hand, against torch and MONAI, and blind to what is not annotated."""

import math
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from napari_tally import settings
from napari_tally.core.losses import LOSSES, bce_dice, binary_cross_entropy, dice, focal, tversky, weighted_cross_entropy

EVERY = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
WEIGHTED = [weighted_cross_entropy, binary_cross_entropy, focal]
BY_AREA = [dice, tversky]


@pytest.fixture
def logits():
    return torch.randn(2, 3, 8, 9, generator=torch.manual_seed(0), requires_grad=True)


@pytest.fixture
def classes():
    return torch.randint(-1, 3, (2, 8, 9), generator=torch.manual_seed(1))


@pytest.fixture
def by_hand():
    """Three pixels of two classes: p(0) = 1/2, 3/4, and one that is not annotated."""
    logits = torch.tensor([[[[0.0, math.log(3), 5.0]], [[0.0, 0.0, -5.0]]]])
    return logits, torch.tensor([[[0, 1, -1]]]), torch.tensor([[[1.0, 3.0, 100.0]]])


def test_the_settings_name_them_all():
    assert get_args(settings.Loss) == tuple(LOSSES)


# ------------------------------------------------------------------ by hand


def test_cross_entropy_by_hand(by_hand):
    expected = (1 * math.log(2) + 3 * math.log(4)) / 4
    assert weighted_cross_entropy(*by_hand).item() == pytest.approx(expected)
    assert binary_cross_entropy(*by_hand).item() == pytest.approx(expected)  # of two classes they are one


def test_binary_cross_entropy_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.25]).log().reshape(1, 3, 1, 1) + 7
    expected = -(math.log(0.25) + math.log(1 - 0.5) + math.log(1 - 0.25)) / 3
    assert binary_cross_entropy(logits, torch.tensor([[[2]]]), torch.ones(1, 1, 1)).item() == pytest.approx(expected)


def test_focal_by_hand(by_hand):
    expected = (1 * (1 / 2) ** 2 * math.log(2) + 3 * (3 / 4) ** 2 * math.log(4)) / 4
    assert focal(*by_hand).item() == pytest.approx(expected)


def test_dice_by_hand(by_hand):
    first, second = (2 * 0.5 + 1) / (1.25 + 1 + 1), (2 * 0.25 + 1) / (0.75 + 1 + 1)  # Σpy, Σp and Σy of the two annotated pixels
    assert dice(*by_hand).item() == pytest.approx(1 - (first + second) / 2)


def test_tversky_by_hand(by_hand):
    first, second = 0.5 / (0.5 + 0.3 * 0.75 + 0.7 * 0.5), 0.25 / (0.25 + 0.3 * 0.5 + 0.7 * 0.75)
    assert tversky(*by_hand, smooth=0).item() == pytest.approx(1 - (first + second) / 2)


def test_bce_dice_is_the_sum(logits, classes):
    weights = torch.rand(classes.shape)
    torch.testing.assert_close(
        bce_dice(logits, classes, weights), binary_cross_entropy(logits, classes, weights) + dice(logits, classes, weights)
    )


# ------------------------------------------------------------------ against others


def test_weights_of_one_are_the_plain_cross_entropy(logits, classes):
    ones = torch.ones(classes.shape)
    torch.testing.assert_close(weighted_cross_entropy(logits, classes, ones), F.cross_entropy(logits, classes, ignore_index=-1))
    torch.testing.assert_close(weighted_cross_entropy(logits, classes, 7 * ones), F.cross_entropy(logits, classes, ignore_index=-1))


def test_class_weights_are_those_of_torch(logits, classes):
    w = torch.tensor([0.5, 1.0, 4.0])
    ours = weighted_cross_entropy(logits, classes, w[classes.clamp_min(0)])
    torch.testing.assert_close(ours, F.cross_entropy(logits, classes, weight=w, ignore_index=-1))


def test_binary_cross_entropy_is_that_of_torch(logits, classes):
    all_known = classes.clamp_min(0)
    theirs = F.binary_cross_entropy(logits.softmax(1), F.one_hot(all_known, 3).movedim(-1, 1).float())
    torch.testing.assert_close(binary_cross_entropy(logits, all_known, torch.ones(classes.shape)), theirs)


def test_those_of_monai(logits, classes):
    monai = pytest.importorskip("monai.losses")
    classes = classes.clamp_min(0)  # MONAI knows no pixels without annotation
    ones, target = torch.ones(classes.shape), classes[:, None]
    options = {"softmax": True, "to_onehot_y": True, "batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    torch.testing.assert_close(dice(logits, classes), monai.DiceLoss(**options)(logits, target))
    torch.testing.assert_close(tversky(logits, classes), monai.TverskyLoss(alpha=0.3, beta=0.7, **options)(logits, target))
    theirs = monai.FocalLoss(gamma=2.0, use_softmax=True, to_onehot_y=True)(logits, target)
    torch.testing.assert_close(focal(logits, classes, ones), 3 * theirs)  # MONAI divides by the classes too


# ------------------------------------------------------------------ laws


@EVERY
def test_no_gradient_where_nothing_is_annotated(logits, classes, loss):
    loss(logits, classes, torch.rand(classes.shape) + 0.1).backward()
    moved = logits.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, classes >= 0)


@EVERY
def test_what_is_not_annotated_may_be_anything(logits, classes, loss):
    weights = torch.rand(classes.shape)
    hidden = (classes < 0)[:, None]
    other = torch.where(hidden, torch.full_like(logits, 50.0).cumsum(1), logits)
    torch.testing.assert_close(loss(other, classes, weights + 9 * hidden[:, 0]), loss(logits, classes, weights))


@EVERY
def test_nothing_annotated_is_no_loss(logits, loss):
    value = loss(logits, torch.full((2, 8, 9), -1), torch.ones(2, 8, 9))
    value.backward()
    assert value == 0
    assert not logits.grad.any()


@EVERY
def test_right_is_better_than_wrong_and_never_infinite(classes, loss):
    classes = classes.clamp_min(0)
    ones = torch.ones(classes.shape)
    sure = 1000 * F.one_hot(classes, 3).movedim(-1, 1).float()
    right, wrong = loss(sure, classes, ones), loss(-sure, classes, ones)
    assert right.item() == pytest.approx(0, abs=1e-5)
    assert wrong.isfinite()
    assert wrong > 0.1


@pytest.mark.parametrize("loss", WEIGHTED)
def test_a_pixel_of_double_weight_counts_as_two(logits, loss):
    classes = torch.tensor([[[0, 2, 1]]])
    three = logits[:1, :, :1, :3]
    weights = torch.tensor([[[2.0, 1.0, 1.0]]])
    twice = loss(three[..., [0, 0, 1, 2]], classes[..., [0, 0, 1, 2]], torch.ones(1, 1, 4))
    torch.testing.assert_close(loss(three, classes, weights), twice)


@pytest.mark.parametrize("loss", BY_AREA)
def test_areas_know_no_weights(logits, classes, loss):
    torch.testing.assert_close(loss(logits, classes, torch.rand(classes.shape)), loss(logits, classes))


@EVERY
def test_half_precision_is_lifted(logits, classes, loss):
    value = loss(1000 * logits.half(), classes, torch.ones(classes.shape))
    assert value.dtype == torch.float32
    assert value.isfinite()
