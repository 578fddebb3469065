"""MelResNet, a small residual network for log-mel spectrograms."""

from __future__ import annotations

from timm.models.resnet import BasicBlock, downsample_avg
from torch import Tensor, nn


class MelResNet(nn.Module):
    """(B, in_chans, n_mels, frames) features -> (B, num_classes) logits.

    A residual network (He et al. 2016, "Deep Residual Learning") that differs from those made for photographs in three
    ways. It keeps resolution: the stem halves each axis once where theirs divide it by four, and there are two more
    halvings in place of three. It is narrow, 346 k weights with 12 classes. And it keeps pitch apart to the end: the
    tail is a convolution over all that is left of the frequency axis, and only time is averaged.
    """

    STEM = 16  # channels
    STAGES = ((24, 1), (48, 2), (80, 2))  # channels and stride of two blocks each
    TAIL = 96

    def __init__(self, num_classes: int = 12, in_chans: int = 1, n_mels: int = 40, drop_rate: float = 0.1) -> None:
        super().__init__()
        self.num_classes = num_classes
        inputs, rows = self.STEM, -(-n_mels // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, inputs, 5, 2, 2, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        for channels, stride in self.STAGES:
            shortcut = downsample_avg(inputs, channels, kernel_size=1, stride=stride)
            blocks += [BasicBlock(inputs, channels, stride, shortcut), BasicBlock(channels, channels)]
            inputs, rows = channels, -(-rows // stride)
        self.blocks = nn.Sequential(*blocks)
        for block in blocks:
            block.zero_init_last()  # type: ignore[operator]
        self.tail = nn.Sequential(
            nn.Conv2d(inputs, self.TAIL, (rows, 1), bias=False), nn.BatchNorm2d(self.TAIL), nn.ReLU(inplace=True)
        )
        self.drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.TAIL, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.blocks(self.stem(x)))
        result: Tensor = self.head(self.drop(x.mean((2, 3))))
        return result
