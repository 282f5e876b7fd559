"""The losses to choose from. All are blind to pixels that nobody annotated.

=======================  =============================================  ============================
name                     formula, p = softmax of the logits             weights w(x)
=======================  =============================================  ============================
cross-entropy            -log p_l                                       yes (Ronneberger 2015, eq. 1)
binary-cross-entropy     each class against the rest                    yes
dice                     1 - 2 Σpy / (Σp + Σy), mean over classes       no: areas are compared
bce-dice                 the sum of the two above                       in the first part
focal                    -(1 - p_l)^2 log p_l                           yes
tversky                  1 - TP / (TP + 0.3 FP + 0.7 FN)                no: areas are compared
=======================  =============================================  ============================

l is the true class of a pixel, y its one-hot code. Where weights count, the loss is their mean: with weights of one the plain formula.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_tally.core.annotations import NOT_ANNOTATED

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, classes, weights) -> loss; see :func:`weighted_cross_entropy`."""


def weighted_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Average -w(x) log p_{l(x)}(x) over the annotated pixels.

    Parameters
    ----------
    logits : (N, C, Y, X) float tensor
        Output of the network.
    classes : (N, Y, X) int64 tensor
        True class l(x) of each pixel, or -1 where nothing is annotated.
    weights : (N, Y, X) float tensor
        w(x) >= 0.

    Returns
    -------
    () float32 tensor
        sum of w(x) * -log p over annotated x, divided by the sum of w(x) there; 0 where nothing is
        annotated. With weights of one it is the plain cross-entropy.

    References
    ----------
    Ronneberger et al., MICCAI 2015, equation 1 (there without the division, which only sets the unit
    of the learning rate).
    """
    each = F.cross_entropy(logits.float(), classes, ignore_index=NOT_ANNOTATED, reduction="none")  # (N, Y, X)
    return _weighted_mean(each, classes, weights)


def binary_cross_entropy(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Average the binary cross-entropy of each class against the rest, -y log p - (1 - y) log(1 - p); parameters as above.

    p is the softmax, as in prediction; with two classes this is the cross-entropy.
    """
    logits = logits.float()
    total, n = logits.logsumexp(1), logits.shape[1]
    each = torch.zeros_like(total)
    for c in range(n):
        others = logits[:, [k for k in range(n) if k != c]].logsumexp(1)  # log(1 - p) without a difference near 1
        each = each + total - torch.where(classes == c, logits[:, c], others)
    return _weighted_mean(each / n, classes, weights)


def focal(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Average -w (1 - p_l)^2 log p_l: pixels that are right already count little; parameters as above.

    References
    ----------
    T.-Y. Lin et al., ICCV 2017, equation 4; w(x) is its alpha, 2 its gamma.
    """
    each = F.cross_entropy(logits.float(), classes, ignore_index=NOT_ANNOTATED, reduction="none")
    return _weighted_mean(each * (1 - torch.exp(-each)) ** 2, classes, weights)


def tversky(
    logits: Tensor, classes: Tensor, weights: Tensor | None = None, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0
) -> Tensor:
    """Give 1 - (TP + s) / (TP + alpha FP + beta FN + s), TP, FP and FN of each class over the whole batch; the mean over classes.

    Parameters
    ----------
    logits, classes
        As for :func:`weighted_cross_entropy`.
    weights : ignored
        Areas are compared, and each class weighs the same already.
    alpha, beta : float
        What a false and a missed pixel cost. The paper's best for rare classes: 0.3 and 0.7.
    smooth : float
        s in pixels: a class that is absent from a patch then costs little where little of it is predicted.

    References
    ----------
    S. S. M. Salehi et al., MLMI 2017, equations 3 and 4.
    """
    known = (classes != NOT_ANNOTATED)[:, None]
    p = logits.float().softmax(1) * known
    y = F.one_hot(classes.clamp_min(0), logits.shape[1]).movedim(-1, 1) * known  # (N, C, Y, X)
    over = (0, *range(2, p.ndim))
    tp, all_p, all_y = (p * y).sum(over), p.sum(over), y.sum(over)
    score = (tp + smooth) / (tp + alpha * (all_p - tp) + beta * (all_y - tp) + smooth)
    return (1 - score).mean() * known.any()  # 0 where nothing is annotated


def dice(logits: Tensor, classes: Tensor, weights: Tensor | None = None) -> Tensor:
    """Give 1 - (2 Σpy + 1) / (Σp + Σy + 1) of each class over the whole batch, the mean over classes; see :func:`tversky`.

    References
    ----------
    F. Milletari et al., 3DV 2016 (there with squares in the denominator). M. Drozdzal et al., DLMIA 2016, equation 1.
    """
    return tversky(logits, classes, weights, 0.5, 0.5, 0.5)


def bce_dice(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Add binary cross-entropy (weighted) and Dice (not): pixels and areas, as nnU-Net does (F. Isensee et al., 2021)."""
    return binary_cross_entropy(logits, classes, weights) + dice(logits, classes)


LOSSES: dict[str, Loss] = {
    "cross-entropy": weighted_cross_entropy,
    "binary-cross-entropy": binary_cross_entropy,
    "dice": dice,
    "bce-dice": bce_dice,
    "focal": focal,
    "tversky": tversky,
}
"""By the names of :attr:`napari_tally.settings.TrainingSettings.loss`."""


def _weighted_mean(each: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Average (N, Y, X) over the annotated pixels."""
    weights = weights * (classes != NOT_ANNOTATED)
    return (each * weights).sum() / weights.sum().clamp_min(1e-12)
