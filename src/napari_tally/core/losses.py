"""The loss: pixel-wise weighted softmax cross-entropy (Ronneberger et al. 2015, equation 1)."""

from torch import Tensor
from torch.nn import functional as F

from napari_tally.core.annotations import NOT_ANNOTATED


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
    weights = weights * (classes != NOT_ANNOTATED)
    return (each * weights).sum() / weights.sum().clamp_min(1e-12)
