"""The Lightweight OpenPose network.

Modules are laid out so that the `state_dict` carries the tensor names of the published checkpoint.

Source: Osokin, "Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose",
arXiv:1811.12004: MobileNet v1 up to conv5_5, a CPM block, one initial and one refinement stage.

Array legend: N images, H and W network input size in pixels, K heatmap channels (one per keypoint
and the background), P PAF channels (two per limb).
"""

import torch
from torch import nn

from distributed_pose.model.architecture import (
    BACKBONE_BLOCKS,
    CPM_BLOCKS,
    FEATURES,
    INITIAL_BLOCKS,
    INITIAL_HEAD_CHANNELS,
    PUBLISHED_CHANNELS,
    REFINEMENT_BLOCKS,
    STEM_CHANNELS,
    MapChannels,
    Weights,
    weight_channels,
)


class LightweightOpenPose(nn.Module):
    """Returns heatmaps and PAFs of the initial and the refinement stages, in that order.

    Input: float32 [N, 3, H, W], BGR, `(x - 128) / 256`; H and W multiples of 8.
    Output: `(heatmaps_0, pafs_0, heatmaps_1, pafs_1, ...)`, each [N, K or P, H / 8, W / 8].

    Args:
        refinement_stages: number of stages after the initial one; the published AP is that of a
            network with one refinement stage.
        channels: channels of the maps; by default those of the published checkpoint.
    """

    def __init__(
        self, refinement_stages: int = 1, channels: MapChannels = PUBLISHED_CHANNELS
    ) -> None:
        super().__init__()
        self.model = _backbone()
        self.cpm = _Cpm(BACKBONE_BLOCKS[-1][0], FEATURES)
        self.initial_stage = _InitialStage(FEATURES, channels)
        self.refinement_stages = nn.ModuleList(
            _RefinementStage(FEATURES + sum(channels), FEATURES, channels)
            for _ in range(refinement_stages)
        )

    def forward(self, images_N3HW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.cpm(self.model(images_N3HW))
        outputs: tuple[torch.Tensor, ...] = self.initial_stage(features)
        for stage in self.refinement_stages:
            outputs += stage(torch.cat((features, *outputs[-2:]), dim=1))
        return outputs


def network_of(weights: Weights, refinement_stages: int) -> LightweightOpenPose:
    """Returns the network with the given weights, in evaluation mode.

    Args:
        weights: weights by their names in the published checkpoint; the network gets copies.
        refinement_stages: number of refinement stages of the network.
    """
    # The parameters take no memory before the weights replace them.
    with torch.device("meta"):
        network = LightweightOpenPose(refinement_stages, weight_channels(weights))
    # The only tensors that the weights lack are the counters of training batches.
    counters = {name: torch.tensor(0) for name in network.state_dict() if name not in weights}
    tensors = {name: torch.tensor(weight) for name, weight in weights.items()}
    network.load_state_dict({**tensors, **counters}, assign=True)
    return network.eval()


def _conv(
    inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, norm: bool = False
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _backbone() -> nn.Sequential:
    channels = STEM_CHANNELS
    stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
    blocks = [nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))]
    for outputs, stride, dilation in BACKBONE_BLOCKS:
        blocks.append(_separable(channels, outputs, stride, dilation))
        channels = outputs
    return nn.Sequential(*blocks)


def _separable(inputs: int, outputs: int, stride: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, dilation, dilation, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _separable_without_norm(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.ELU(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.ELU(inplace=True),
    )


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, hidden, 1), nn.Sequential(nn.Conv2d(hidden, outputs, 1)))


class _Cpm(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.align = _conv(inputs, outputs, 1)
        self.trunk = nn.Sequential(*(_separable_without_norm(outputs) for _ in range(CPM_BLOCKS)))
        self.conv = _conv(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        aligned = self.align(x)
        refined: torch.Tensor = self.conv(aligned + self.trunk(aligned))
        return refined


class _InitialStage(nn.Module):
    def __init__(self, features: int, maps: MapChannels) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(_conv(features, features) for _ in range(INITIAL_BLOCKS)))
        self.heatmaps = _head(features, INITIAL_HEAD_CHANNELS, maps.heatmaps)
        self.pafs = _head(features, INITIAL_HEAD_CHANNELS, maps.pafs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        trunk = self.trunk(x)
        return self.heatmaps(trunk), self.pafs(trunk)


class _RefinementBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.initial = _conv(inputs, outputs, 1)
        self.trunk = nn.Sequential(
            _conv(outputs, outputs, norm=True), _conv(outputs, outputs, dilation=2, norm=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        initial = self.initial(x)
        residual: torch.Tensor = initial + self.trunk(initial)
        return residual


class _RefinementStage(nn.Module):
    def __init__(self, inputs: int, features: int, maps: MapChannels) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _RefinementBlock(inputs, features),
            *(_RefinementBlock(features, features) for _ in range(REFINEMENT_BLOCKS - 1)),
        )
        self.heatmaps = _head(features, features, maps.heatmaps)
        self.pafs = _head(features, features, maps.pafs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        trunk = self.trunk(x)
        return self.heatmaps(trunk), self.pafs(trunk)
