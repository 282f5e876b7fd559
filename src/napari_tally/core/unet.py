"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), whole, top to bottom.

::

    input  ─ conv conv ──────────────── skip ────────────────── cat conv conv ─ 1x1 ─ logits
                └ pool 2                                    up 2 ┘
                    conv conv ───────── skip ──────── cat conv conv
                        └ pool 2                  up 2 ┘
                            conv conv  (depth 2 shown)

With ``padding="valid"`` (the paper) every 3x3 convolution eats one pixel at each side, so the
output is smaller than the input (572 -> 388 at depth 4) and skips are cropped. With
``padding="same"`` the sizes stay. The file imports only torch, so that it can travel inside a
model package.

In three dimensions the same network has 3x3x3 convolutions. Where slices are far apart, the first
`flat` poolings leave z alone, until a voxel is about as thick as it is wide::

    flat = 2     level 0   thin and wide     ▁▁▁▁    pool 1x2x2
                 level 1                      ▁▁     pool 1x2x2
                 level 2   about a cube       ▪      pool 2x2x2
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMALISATION: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


class UNet(nn.Module):
    """U-Net for images and volumes.

    Parameters
    ----------
    channels : int
        Input channels.
    classes : int
        Output classes; the output holds logits, one map a class.
    depth : int
        Number of poolings. The paper: 4.
    base_width : int
        Feature maps at full resolution, doubled at each level. The paper: 64.
    padding : {"same", "valid"}
        ``"valid"`` is the paper.
    batch_norm : bool
        Batch normalisation after each 3x3 convolution. The paper has none.
    upsampling : {"transposed", "linear"}
        Learned 2x2 up-convolution (the paper), or bilinear interpolation and a 1x1 convolution.
    dropout : float
        Probability, at the end of the contracting path. The paper does not state its value; 0.5 is usual.
    dimensions : {2, 3}
        Of the images.
    flat : int
        In 3-D, so many poolings, from the first on, halve y and x only.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
    Segmentation. MICCAI 2015, figure 1. K. He et al., ICCV 2015 (initialisation).
    O. Cicek et al., MICCAI 2016 (three dimensions). F. Isensee et al., Nature Methods 2021
    (nnU-Net: no pooling across slices that are far apart).
    """

    exact = True  # an output pixel depends on what lies within the margin, and on nothing else
    types = 1  # kinds of cells: classes 1 to `types` are their insides

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        depth: int = 4,
        base_width: int = 64,
        padding: str = "same",
        batch_norm: bool = True,
        upsampling: str = "transposed",
        dropout: float = 0.0,
        dimensions: int = 2,
        flat: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.depth = channels, classes, depth
        self.padding, self.upsampling, self.dimensions = padding, upsampling, dimensions
        self.factors = [(2, 2) if dimensions == 2 else (1 if level < flat else 2, 2, 2) for level in range(depth)]  # of each pooling
        self.axes = [Axis([factor[i] for factor in self.factors], padding, upsampling) for i in range(dimensions)]
        widths = [base_width * 2**level for level in range(depth + 1)]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(_two_convolutions(i, o, padding, batch_norm, dimensions) for i, o in zip(inputs, widths, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(_doubling(2 * w, w, upsampling, factor) for w, factor in zip(widths[:-1], self.factors, strict=True))
        self.merge = nn.ModuleList(_two_convolutions(2 * w, w, padding, batch_norm, dimensions) for w in widths[:-1])
        self.head = _CONVOLUTION[dimensions](base_width, classes, kernel_size=1)
        self.apply(_he_initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits.

        Parameters
        ----------
        x : (N, channels, [Z,] Y, X) float tensor
            Y and X must be sizes that :meth:`input_size` returns; Z one of that of ``axes[0]``.

        Returns
        -------
        (N, classes, [Z',] Y', X') float tensor
            Y' = Y - 2 * :attr:`lost`.
        """
        skips = []
        for level in range(self.depth):
            x = self.down[level](x)  # (N, base * 2^level, Y / 2^level, X / 2^level)
            skips.append(x)
            if level == self.depth - 1:
                x = self.dropout(x)  # the end of the contracting path, on both of its last levels
            x = self.pool(x, level)
        x = self.dropout(self.down[self.depth](x))  # (N, base * 2^depth, Y / 2^depth, X / 2^depth)
        for level in reversed(range(self.depth)):
            x = self.up[level](x)  # (N, base * 2^level, twice the size)
            x = torch.cat([_crop_to(skips[level], x), x], dim=1)  # (N, 2 * base * 2^level, ...)
            x = self.merge[level](x)  # (N, base * 2^level, ...)
        return self.head(x)  # (N, classes, Y', X')

    def pool(self, x: Tensor, level: int) -> Tensor:
        """Go down from a level."""
        return (F.max_pool2d if self.dimensions == 2 else F.max_pool3d)(x, self.factors[level])

    @property
    def step(self) -> int:
        """Grid of the poolings in pixels: the network commutes with shifts by multiples of this (along y and x)."""
        return self.axes[-1].step

    @property
    def margin(self) -> int:
        """Receptive margin in pixels: how far an output pixel looks to each side, at most (107 at depth 4)."""
        return self.axes[-1].margin

    @property
    def lost(self) -> int:
        """Pixels that the output lacks at each side of the input: 92 for the paper's network, 0 for ``"same"``."""
        return self.axes[-1].lost

    def output_size(self, size: int) -> int:
        """Give the side of the output in pixels for an input of side `size`; see :meth:`Axis.output_size`."""
        return self.axes[-1].output_size(size)

    def input_size(self, size: int, of_output: bool = True) -> int:
        """Give the smallest legal input side whose output (or input) is at least `size` pixels."""
        return self.axes[-1].input_size(size, of_output)


class Axis:
    """What the network does along one axis: sizes and reach. Each axis is solved by itself.

    Parameters
    ----------
    factors : list of {1, 2}
        By how much each pooling shrinks it.
    padding, upsampling
        As for :class:`UNet`.
    """

    def __init__(self, factors: list[int], padding: str, upsampling: str) -> None:
        self.factors, self.step = factors, math.prod(factors)
        self._eaten = 4 if padding == "valid" else 0  # by two 3x3 convolutions
        self._blur = 1 if upsampling == "linear" else 0  # interpolation looks at a neighbour

    @property
    def margin(self) -> int:
        """Receptive margin in pixels."""
        return max(max(x - lo, hi - x) for x in range(self.step) for lo, hi in [self._through_levels(x, x, 0)])

    @property
    def lost(self) -> int:
        """Pixels that the output lacks at each side of the input."""
        size = self.input_size(1)
        return (size - self.output_size(size)) // 2

    def _through_levels(self, lo: int, hi: int, level: int) -> tuple[int, int]:
        """Give the interval of input pixels that output pixels `lo` to `hi` depend on."""
        if level == len(self.factors):
            return lo - 2, hi + 2  # two 3x3 convolutions at the bottom
        lo, hi = lo - 2, hi + 2  # the two 3x3 convolutions of the expansive path
        factor = self.factors[level]
        blur = self._blur if factor > 1 else 0
        below_lo, below_hi = self._through_levels((lo - blur) // factor, (hi + blur) // factor, level + 1)
        lo, hi = min(lo, factor * below_lo), max(hi, factor * below_hi + factor - 1)  # a pooled pixel saw two
        return lo - 2, hi + 2  # the two 3x3 convolutions of the contracting path

    def output_size(self, size: int) -> int:
        """Give the side of the output in pixels for an input of side `size`.

        Raises
        ------
        ValueError
            If a level would be odd or empty; the message names the nearest size that works.
        """
        n = size
        for factor in self.factors:
            n -= self._eaten
            if n <= 0 or n % factor:
                raise ValueError(f"This U-Net cannot take an input of {size} px; {self.input_size(size, of_output=False)} px works.")
            n //= factor
        n -= self._eaten
        for factor in reversed(self.factors):
            n = factor * n - self._eaten
        if n <= 0:
            raise ValueError(f"This U-Net cannot take an input of {size} px; {self.input_size(1)} px is the smallest.")
        return n

    def input_size(self, size: int, of_output: bool = True) -> int:
        """Give the smallest legal input side whose output (or input) is at least `size` pixels."""
        bottom = self._eaten + 1
        while True:
            n, out = bottom, bottom - self._eaten
            for factor in reversed(self.factors):
                n, out = factor * n + self._eaten, factor * out - self._eaten
            if out > 0 and (out if of_output else n) >= size:
                return n
            bottom += 1


def _two_convolutions(inputs: int, outputs: int, padding: str, batch_norm: bool, dimensions: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in (inputs, outputs):
        layers.append(_CONVOLUTION[dimensions](i, outputs, kernel_size=3, padding=int(padding == "same"), bias=not batch_norm))
        if batch_norm:
            layers.append(_NORMALISATION[dimensions](outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _doubling(inputs: int, outputs: int, upsampling: str, factor: tuple[int, ...] = (2, 2)) -> nn.Module:
    n = len(factor)
    if upsampling == "transposed":
        return _UP_CONVOLUTION[n](inputs, outputs, kernel_size=factor, stride=factor)
    return nn.Sequential(nn.Upsample(scale_factor=factor, mode=_LINEAR[n]), _CONVOLUTION[n](inputs, outputs, kernel_size=1))


def _crop_to(skip: Tensor, x: Tensor) -> Tensor:
    """Cut the middle out of `skip` so that it fits on `x` (nothing is cut for ``"same"``)."""
    for axis in range(2, x.ndim):
        skip = skip.narrow(axis, (skip.shape[axis] - x.shape[axis]) // 2, x.shape[axis])
    return skip


def _he_initialisation(module: nn.Module) -> None:
    """Draw weights from N(0, 2 / fan_in), as the paper does."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        fan_in = module.in_channels * (math.prod(module.kernel_size) if isinstance(module, nn.Conv2d | nn.Conv3d) else 1)
        nn.init.normal_(module.weight, std=(2.0 / fan_in) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
