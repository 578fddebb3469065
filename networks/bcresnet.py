"""BC-ResNet (Kim et al. 2021, "Broadcasted residual learning for efficient keyword spotting")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STAGES = (  # channels at width 1, blocks, stride along frequency, dilation along time
    (8, 2, 1, 1),
    (12, 2, 2, 2),
    (16, 4, 2, 4),
    (20, 4, 1, 8),
)
STEM, HEAD = 16, 32  # channels at width 1
SUB_BANDS = 5  # that are normalised on their own


class SubSpectralNorm(nn.Module):
    """Batch normalisation of each band of frequencies on its own (Chang et al. 2021, "SubSpectral Normalization").

    The bands are as many as `SUB_BANDS`, or the largest number below that divides the rows.
    """

    def __init__(self, channels: int, rows: int) -> None:
        super().__init__()
        self.bands = next(count for count in range(SUB_BANDS, 0, -1) if rows % count == 0)
        self.norm = nn.BatchNorm2d(channels * self.bands)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, T) -> the same shape."""
        batch, channels, rows, frames = x.shape
        split = x.reshape(batch, channels * self.bands, rows // self.bands, frames)
        result: Tensor = self.norm(split).view(batch, channels, rows, frames)
        return result


class AlongFrequency(nn.Conv2d):
    """A depthwise convolution of 3 rows, padded by one; (B, C, F, T) -> (B, C, F / stride, T).

    On a processor it is a product with each channel's band matrix (F / stride, F), which at these heights takes less
    time than the convolution, forward and backward.
    """

    place: Tensor

    def __init__(self, channels: int, rows: int, stride: int) -> None:
        super().__init__(channels, channels, (3, 1), (stride, 1), (1, 0), groups=channels, bias=False)
        taps = [torch.eye(rows + 2)[tap : tap + rows : stride, 1:-1] for tap in range(3)]
        self.register_buffer("place", torch.stack(taps), persistent=False)  # (3, F / stride, F), of each weight

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        return torch.einsum("ct,trf->crf", self.weight[:, 0, :, 0], self.place) @ x


class Block(nn.Module):
    """A broadcasted residual block: what a mean over frequency says of time is added at every frequency.

    Where the channels change a pointwise convolution comes first, and the shortcut is left out.
    """

    def __init__(self, inputs: int, outputs: int, rows: int, stride: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.change = None
        if inputs != outputs:
            self.change = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            )
        self.along_frequency = nn.Sequential(
            AlongFrequency(outputs, rows, stride), SubSpectralNorm(outputs, -(-rows // stride))
        )
        self.along_time = nn.Sequential(
            nn.Conv2d(outputs, outputs, (1, 3), 1, (0, dilation), (1, dilation), groups=outputs, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(inplace=True),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, F, T) -> (B, outputs, F / stride, T)."""
        two_dimensional = self.along_frequency(x if self.change is None else self.change(x))
        result = two_dimensional + self.along_time(two_dimensional.mean(2, keepdim=True))
        return torch.relu(result if self.change is not None else result + x)


class BCResNet(nn.Module):
    """(B, in_chans, n_mels, frames) features -> (B, num_classes) logits; `width` multiplies the channels.

    Kim, Chang, Lee & Sung 2021, "Broadcasted Residual Learning for Efficient Keyword Spotting". The network
    keeps every frame up to the end. Of the paper's it differs in taking features of any height.
    """

    memory_format = torch.contiguous_format  # the faster one on a processor: bands are then views

    def __init__(
        self, width: int = 1, num_classes: int = 12, in_chans: int = 1, n_mels: int = 40, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        self.num_classes = num_classes

        def wide(channels: int) -> int:
            return channels * width

        inputs, rows = wide(STEM), -(-n_mels // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, inputs, 5, (2, 1), 2, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        for channels, count, stride, dilation in STAGES:
            for block in range(count):
                step = stride if block == 0 else 1
                blocks.append(Block(inputs, wide(channels), rows, step, dilation, drop_rate))
                inputs, rows = wide(channels), -(-rows // step)
        self.blocks = nn.Sequential(*blocks)
        self.tail = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, padding=(0 if rows >= 5 else 2, 2), groups=inputs, bias=False),
            nn.Conv2d(inputs, wide(HEAD), 1, bias=False),
            nn.BatchNorm2d(wide(HEAD)),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(wide(HEAD), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.blocks(self.stem(x)))
        result: Tensor = self.head(x.mean((2, 3)))
        return result
