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
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """U-Net for 2-D images.

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

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox: U-Net: Convolutional Networks for Biomedical Image
    Segmentation. MICCAI 2015, figure 1. K. He et al., ICCV 2015 (initialisation).
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
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.depth = channels, classes, depth
        self.padding, self.upsampling = padding, upsampling
        widths = [base_width * 2**level for level in range(depth + 1)]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(_two_convolutions(i, o, padding, batch_norm) for i, o in zip(inputs, widths, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(_doubling(2 * w, w, upsampling) for w in widths[:-1])
        self.merge = nn.ModuleList(_two_convolutions(2 * w, w, padding, batch_norm) for w in widths[:-1])
        self.head = nn.Conv2d(base_width, classes, kernel_size=1)
        self.apply(_he_initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits.

        Parameters
        ----------
        x : (N, channels, Y, X) float tensor
            Y and X must be sizes that :meth:`input_size` returns.

        Returns
        -------
        (N, classes, Y', X') float tensor
            Y' = Y - 2 * :attr:`lost`.
        """
        skips = []
        for level in range(self.depth):
            x = self.down[level](x)  # (N, base * 2^level, Y / 2^level, X / 2^level)
            skips.append(x)
            if level == self.depth - 1:
                x = self.dropout(x)  # the end of the contracting path, on both of its last levels
            x = F.max_pool2d(x, 2)
        x = self.dropout(self.down[self.depth](x))  # (N, base * 2^depth, Y / 2^depth, X / 2^depth)
        for level in reversed(range(self.depth)):
            x = self.up[level](x)  # (N, base * 2^level, twice the size)
            x = torch.cat([_crop_to(skips[level], x), x], dim=1)  # (N, 2 * base * 2^level, ...)
            x = self.merge[level](x)  # (N, base * 2^level, ...)
        return self.head(x)  # (N, classes, Y', X')

    @property
    def step(self) -> int:
        """Grid of the poolings in pixels: the network commutes with shifts by multiples of this."""
        return 2**self.depth

    @property
    def margin(self) -> int:
        """Receptive margin in pixels: how far an output pixel looks to each side, at most (107 at depth 4)."""
        return max(max(x - lo, hi - x) for x in range(self.step) for lo, hi in [self._looks_at(x)])

    @property
    def lost(self) -> int:
        """Pixels that the output lacks at each side of the input: 92 for the paper's network, 0 for ``"same"``."""
        size = self.input_size(1)
        return (size - self.output_size(size)) // 2

    def _looks_at(self, x: int) -> tuple[int, int]:
        """Give the interval of input pixels that output pixel `x` depends on (one axis)."""
        return self._through_levels(x, x, 0)

    def _through_levels(self, lo: int, hi: int, level: int) -> tuple[int, int]:
        if level == self.depth:
            return lo - 2, hi + 2  # two 3x3 convolutions at the bottom
        lo, hi = lo - 2, hi + 2  # the two 3x3 convolutions of the expansive path
        reach = 1 if self.upsampling == "linear" else 0  # bilinear interpolation looks at a neighbour
        below_lo, below_hi = self._through_levels((lo - reach) // 2, (hi + reach) // 2, level + 1)
        lo, hi = min(lo, 2 * below_lo), max(hi, 2 * below_hi + 1)  # a pooled pixel saw two
        return lo - 2, hi + 2  # the two 3x3 convolutions of the contracting path

    def output_size(self, size: int) -> int:
        """Give the side of the output in pixels for an input of side `size`.

        Raises
        ------
        ValueError
            If a level would be odd or empty; the message names the nearest size that works.
        """
        eaten = 4 if self.padding == "valid" else 0
        n = size
        for _ in range(self.depth):
            n -= eaten
            if n <= 0 or n % 2:
                raise ValueError(f"This U-Net cannot take an input of {size} px; {self.input_size(size, of_output=False)} px works.")
            n //= 2
        n -= eaten
        for _ in range(self.depth):
            n = 2 * n - eaten
        if n <= 0:
            raise ValueError(f"This U-Net cannot take an input of {size} px; {self.input_size(1)} px is the smallest.")
        return n

    def input_size(self, size: int, of_output: bool = True) -> int:
        """Give the smallest legal input side whose output (or input) is at least `size` pixels."""
        eaten = 4 if self.padding == "valid" else 0
        bottom = 1 if not eaten else eaten + 1
        while True:
            n = bottom
            for _ in range(self.depth):
                n = 2 * n + eaten
            out = bottom - eaten
            for _ in range(self.depth):
                out = 2 * out - eaten
            if out > 0 and (out if of_output else n) >= size:
                return n
            bottom += 1


def _two_convolutions(inputs: int, outputs: int, padding: str, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in (inputs, outputs):
        layers.append(nn.Conv2d(i, outputs, kernel_size=3, padding=int(padding == "same"), bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _doubling(inputs: int, outputs: int, upsampling: str) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, kernel_size=2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(inputs, outputs, kernel_size=1))


def _crop_to(skip: Tensor, x: Tensor) -> Tensor:
    """Cut the middle out of `skip` so that it fits on `x` (nothing is cut for ``"same"``)."""
    top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
    return skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]


def _he_initialisation(module: nn.Module) -> None:
    """Draw weights from N(0, 2 / fan_in), as the paper does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_in = module.in_channels * (module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1)
        nn.init.normal_(module.weight, std=(2.0 / fan_in) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
