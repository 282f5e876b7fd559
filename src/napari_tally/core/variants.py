"""The relatives of the U-Net: the same way down and up, with other blocks on it. All keep the size of the image.

::

    ResUNet        x ─ BN ReLU conv ─ BN ReLU conv ─ (+) ─     each pair of convolutions is a residual unit;
                   └────────────── 1x1 ───────────────┘        the first convolution halves, instead of a pooling

    AttentionUNet  skip ─────────────────── (x) ── cat         what lies below says where to look:
                     └ 2x2/2 ─ (+) ReLU 1x1 σ ┘ up 2           a map from 0 to 1 for each skip but the finest
                   below ─ 1x1 ┘

    BilinearUNet   as the widespread PyTorch port builds it without up-convolutions; made to take over its weights
    NNUNet, UNetPlusPlus, SwinUNETR   from MONAI, imported when one is built

What prediction and training ask of a network beside its output is :class:`SameSize`; :class:`~napari_tally.core.unet.UNet` has it too.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_tally.core.unet import _doubling, _he_initialisation, _two_convolutions


class SameSize(nn.Module):
    """Sizes and reach of a network whose output is as large as its input.

    Attributes
    ----------
    exact : bool
        Whether an output pixel depends on the pixels within the margin alone. If not, tiles are approximate at their seams.
    types : int
        Kinds of cells: classes 1 to `types` are their insides.
    strided : bool
        Halved by strided 3x3 convolutions, not by pooling.
    bottom : int
        Pixels along a side that must be left at the bottom.
    blurs : sequence of int
        For each level, how many pixels of the coarser one beside its own a pixel looks at on the way up.
    """

    padding = "same"
    lost = 0
    exact = True
    types = 1
    strided = False
    bottom = 1
    dimensions = 2
    down: nn.ModuleList
    dropout: nn.Dropout

    def __init__(self, channels: int, classes: int, depth: int, blur: bool = False) -> None:
        super().__init__()
        self.channels, self.classes, self.depth = channels, classes, depth
        self.blurs = [int(blur)] * depth

    @property
    def axes(self) -> "list[SameSize]":
        """Sizes and reach along y and x: those that it has itself; see :class:`napari_tally.core.unet.Axis`."""
        return [self, self]

    @property
    def step(self) -> int:
        """Grid of the halvings in pixels: the network commutes with shifts by multiples of this."""
        return 2**self.depth

    @property
    def margin(self) -> int:
        """Receptive margin in pixels: how far an output pixel looks to each side, at most."""
        return max(max(x - lo, hi - x) for x in range(self.step) for lo, hi in [self._seen(x, x, 0)])

    def _seen(self, lo: int, hi: int, level: int) -> tuple[int, int]:
        """Give the input pixels (one axis) that pixels lo to hi of the way up depend on."""
        if level == self.depth:
            return self._seen_on_the_way_down(lo, hi, level)
        lo, hi = lo - 2, hi + 2
        skip = self._seen_on_the_way_down(lo, hi, level)
        below = self._seen((lo - self.blurs[level]) // 2, (hi + self.blurs[level]) // 2, level + 1)
        return min(skip[0], below[0]), max(skip[1], below[1])

    def _seen_on_the_way_down(self, lo: int, hi: int, level: int) -> tuple[int, int]:
        for _ in range(level):  # a pooled pixel saw two; a strided 3x3 convolution three, and one more 3x3 follows it
            lo, hi = (2 * (lo - 1) - 1, 2 * (hi + 1) + 1) if self.strided else (2 * (lo - 2), 2 * (hi + 2) + 1)
        return lo - 2, hi + 2

    def _contract(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Go down by pooling: give the map of each level, and the one at the bottom."""
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        return skips, self.dropout(self.down[-1](x))

    def output_size(self, size: int) -> int:
        """Give the side of the output in pixels for an input of side `size`.

        Raises
        ------
        ValueError
            If a level would be odd; the message names the nearest size that works.
        """
        if size < 1 or size % self.step:
            raise ValueError(f"This network cannot take an input of {size} px; {self.input_size(size)} px works.")
        return size

    def input_size(self, size: int, of_output: bool = True) -> int:
        """Give the smallest legal input side of at least `size` pixels."""
        return max(self.bottom, -(-size // self.step)) * self.step


class ResUNet(SameSize):
    """U-Net of residual units with strided convolutions; parameters as for :class:`~napari_tally.core.unet.UNet`.

    References
    ----------
    Z. Zhang, Q. Liu, Y. Wang: Road Extraction by Deep Residual U-Net. IEEE GRSL 2018, figure 2. K. He et al., ECCV 2016 (the order
    normalise, ReLU, convolve).
    """

    strided = True

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        super().__init__(channels, classes, depth, blur=upsampling == "linear")
        widths = [base_width * 2**level for level in range(depth + 1)]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(
            _Residual(i, o, batch_norm, stride=1 if level == 0 else 2, first=level == 0)
            for level, (i, o) in enumerate(zip(inputs, widths, strict=True))
        )
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(_doubling(2 * w, w, upsampling) for w in widths[:-1])
        self.merge = nn.ModuleList(_Residual(2 * w, w, batch_norm) for w in widths[:-1])
        self.head = nn.Conv2d(base_width, classes, kernel_size=1)
        self.apply(_he_initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        skips = []
        for unit in self.down:
            x = unit(x)
            skips.append(x)
        x = self.dropout(skips.pop())
        for level in reversed(range(self.depth)):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], dim=1))
        return self.head(x)


class _Residual(nn.Module):
    """Two convolutions and a way around them; the `first` unit sees the image as it is."""

    def __init__(self, inputs: int, outputs: int, batch_norm: bool, stride: int = 1, first: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, s in ((inputs, stride), (outputs, 1)):
            if not (first and not layers):
                layers += [nn.BatchNorm2d(i)] * batch_norm + [nn.ReLU()]
            layers.append(nn.Conv2d(i, outputs, kernel_size=3, stride=s, padding=1))
        self.layers = nn.Sequential(*layers)
        self.around = nn.Conv2d(inputs, outputs, kernel_size=1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # A convolution of one pixel with a stride, which is the same, crashes oneDNN: the slope of its weights, channels last, below
        # 16 channels (torch 2.13, AVX-512).
        return self.layers(x) + self.around(x[..., :: self.stride, :: self.stride])


class AttentionUNet(SameSize):
    """U-Net whose skips are weighted by what lies below; parameters as for :class:`~napari_tally.core.unet.UNet`.

    References
    ----------
    O. Oktay et al.: Attention U-Net: Learning Where to Look for the Pancreas. MIDL 2018, figures 1 and 2.
    """

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        super().__init__(channels, classes, depth, blur=upsampling == "linear")
        self.blurs[1:] = [1] * (depth - 1)  # the maps of the gates are interpolated
        widths = [base_width * 2**level for level in range(depth + 1)]
        inputs = [channels, *widths[:-1]]
        self.down = nn.ModuleList(_two_convolutions(i, o, "same", batch_norm) for i, o in zip(inputs, widths, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(_doubling(2 * w, w, upsampling) for w in widths[:-1])
        self.gates = nn.ModuleList([nn.Identity(), *(_Gate(w) for w in widths[1:-1])])
        self.merge = nn.ModuleList(_two_convolutions(2 * w, w, "same", batch_norm) for w in widths[:-1])
        self.head = nn.Conv2d(base_width, classes, kernel_size=1)
        self.apply(_he_initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        skips, x = self._contract(x)
        for level in reversed(range(self.depth)):
            skip = self.gates[level](skips[level], x) if level else skips[level]
            x = self.merge[level](torch.cat([skip, self.up[level](x)], dim=1))
        return self.head(x)


class _Gate(nn.Module):
    """Additive attention: equation 1 and figure 2 of the paper."""

    def __init__(self, width: int) -> None:
        super().__init__()
        between = max(1, width // 2)
        self.of_skip = nn.Conv2d(width, between, kernel_size=2, stride=2, bias=False)
        self.of_below = nn.Conv2d(2 * width, between, kernel_size=1)
        self.together = nn.Conv2d(between, 1, kernel_size=1)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        where = torch.sigmoid(self.together(F.relu(self.of_skip(skip) + self.of_below(below))))  # (N, 1, Y / 2, X / 2)
        return skip * F.interpolate(where, scale_factor=2, mode="bilinear")


class BilinearUNet(SameSize):
    """The bilinear variant of the PyTorch port of the U-Net by milesial, to take over its weights.

    It interpolates so that the corner pixels of a tile stay in the corners: what a pixel gets depends on the size of the tile.
    """

    exact = False

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        super().__init__(channels, classes, depth, blur=True)
        widths = [base_width * 2**level for level in range(depth)]
        inputs, outputs = [channels, *widths], [*widths, widths[-1]]
        self.down = nn.ModuleList(_two_convolutions(i, o, "same", batch_norm) for i, o in zip(inputs, outputs, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.merge = nn.ModuleList(_narrowing(2 * w, max(base_width, w // 2), batch_norm) for w in widths)
        self.head = nn.Conv2d(base_width, classes, kernel_size=1)
        self.apply(_he_initialisation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        skips, x = self._contract(x)
        for level in reversed(range(self.depth)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self.merge[level](torch.cat([skips[level], x], dim=1))
        return self.head(x)


def _narrowing(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    """Two convolutions, the first of which halves the maps."""
    first, second = _two_convolutions(inputs, inputs // 2, "same", batch_norm), _two_convolutions(inputs // 2, outputs, "same", batch_norm)
    half = len(first) // 2
    return nn.Sequential(*list(first)[:half], *list(second)[:half])


class NNUNet(SameSize):
    """The plain U-Net as nnU-Net configures it, MONAI's DynUNet: instance normalisation, leaky ReLU, strided convolutions.

    Instance normalisation looks at all of a tile: no tile is exact. With the loss 'bce-dice' it learns what nnU-Net learns.

    References
    ----------
    F. Isensee et al.: nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature Methods 2021,
    supplementary note 2: two convolutions a level, at most 512 maps.
    """

    exact = False
    strided = True
    bottom = 2

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        if depth < 2:
            raise ValueError(f"The nnU-Net halves the image at least twice, not {depth} time(s).")
        super().__init__(channels, classes, depth)
        halves = [2] * depth
        widths = [min(512, base_width * 2**level) for level in range(depth + 1)]
        shape = [3] * (depth + 1), [1, *halves], halves, widths
        body = _monai_nets().DynUNet(2, channels, classes, *shape, dropout=dropout or None, norm_name=("instance", {"affine": True}))
        self.down = nn.ModuleList([body.input_block, *body.downsamples, body.bottleneck])  # it has each twice: a file wants them once
        self.up, self.out = body.upsamples, body.output_block

    @property
    def head(self) -> nn.Module:
        """The last convolution, to classes."""
        return self.out.conv.conv

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(x, skips.pop())
        return self.out(x)


class UNetPlusPlus(SameSize):
    """U-Net++ of MONAI: nodes between the two ways, each joined with all before it at its level; five levels.

    References
    ----------
    Z. Zhou et al.: UNet++: A Nested U-Net Architecture for Medical Image Segmentation. DLMIA 2018, figure 1.
    """

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        if depth != 4:
            raise ValueError(f"U-Net++ has depth 4, not {depth}; leave the depth as it is.")
        if not batch_norm:
            raise ValueError("U-Net++ of MONAI always normalises; switch batch normalisation on.")
        super().__init__(channels, classes, depth)
        w = base_width
        widths = (w, 2 * w, 4 * w, 8 * w, 16 * w, w)
        self.body = _monai_nets().BasicUNetPlusPlus(2, channels, classes, widths, act="relu", norm="batch", dropout=dropout)
        for unused in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):  # outputs for training with deep supervision
            setattr(self.body, unused, nn.Identity())

    @property
    def head(self) -> nn.Module:
        """The last convolution, to classes."""
        return self.body.final_conv_0_4

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        return self.body(x)[0]


class SwinUNETR(SameSize):
    """Swin UNETR of MONAI in two dimensions: attention over windows on the way down, convolutions on the way up.

    Windows lie on a grid that begins at the corner of a tile, and instance normalisation looks at all of it: no tile is exact.

    References
    ----------
    A. Hatamizadeh et al.: Swin UNETR. BrainLes 2021. Z. Liu et al.: Swin Transformer. ICCV 2021.
    """

    exact = False
    bottom = 2

    def __init__(self, channels: int, classes: int, depth: int, base_width: int, batch_norm: bool, upsampling: str, dropout: float) -> None:
        if depth != 4:
            raise ValueError(f"The Swin U-Net has a depth of its own; leave the depth at 4 (it is {depth}).")
        super().__init__(channels, classes, depth=5)
        width = 12 * max(1, round(base_width / 8))  # it wants multiples of 12: three heads and more
        with torch.device("cpu"):  # it asks for values while it is built, which a network without memory does not have
            self.body = _monai_nets().SwinUNETR(channels, classes, feature_size=width, drop_rate=dropout, spatial_dims=2)

    @property
    def head(self) -> nn.Module:
        """The last convolution, to classes."""
        return self.body.out.conv.conv

    @property
    def margin(self) -> int:
        """Context around a tile in pixels. The network looks farther: at the whole tile."""
        return 64

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, Y, X) to logits (N, classes, Y, X); Y and X are multiples of :attr:`step`."""
        return self.body(x)


def _monai_nets() -> Any:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise ValueError(
            "This architecture comes with MONAI, which is not installed. Install it with: pip install 'napari-tally[models]'"
        ) from error
    return nets
