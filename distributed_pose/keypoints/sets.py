"""The record of a keypoint set, which everything that knows keypoints or limbs is given."""

from dataclasses import dataclass
from typing import NamedTuple

from distributed_pose.files.local import short_digest


class Limb(NamedTuple):
    """A connection of two keypoints.

    Attributes:
        start: number of the keypoint that the PAF points away from.
        end: number of the keypoint that the PAF points to.
        paf_x: channel of the x component.
        paf_y: channel of the y component.
        fills: whether it only adds a missing keypoint to a person that has the other one. All other
            limbs start and extend people, and form a tree.
    """

    start: int
    end: int
    paf_x: int
    paf_y: int
    fills: bool = False


@dataclass(frozen=True, kw_only=True)
class KeypointSet:
    """The keypoints and limbs of a network, and the keypoints of a dataset.

    A network has one heatmap per keypoint, then the background, and two PAF channels per limb.

    Attributes:
        name: name of the set in reports.
        keypoints: names in the order of the heatmaps.
        dataset_keypoints: names in the order of the annotation file; each is one of `keypoints`.
        sigmas: per keypoint of the dataset, the divisor of distances in OKS.
        derived: names of the keypoints that no annotation has, with those whose midpoint each is.
        limbs: limbs in the order in which people are assembled; in JSON, each is a list of its
            five attributes.
    """

    name: str
    keypoints: tuple[str, ...]
    dataset_keypoints: tuple[str, ...]
    sigmas: tuple[float, ...]
    derived: tuple[tuple[str, tuple[str, ...]], ...]
    limbs: tuple[Limb, ...]

    @property
    def identity(self) -> str:
        """Name and digest of the set, which tell it from every other set."""
        return f"{self.name} {short_digest(repr(self).encode())}"

    @property
    def num_keypoints(self) -> int:
        """Number of the network's keypoints."""
        return len(self.keypoints)

    @property
    def num_heatmaps(self) -> int:
        """Number of heatmaps, of which the last is the background."""
        return len(self.keypoints) + 1

    @property
    def num_pafs(self) -> int:
        """Number of PAF channels."""
        return 2 * len(self.limbs)

    @property
    def num_dataset_keypoints(self) -> int:
        """Number of keypoints of an annotation."""
        return len(self.dataset_keypoints)

    @property
    def to_dataset(self) -> tuple[int | None, ...]:
        """Per keypoint of the network its position in the dataset's order; None for a derived."""
        position = {name: n for n, name in enumerate(self.dataset_keypoints)}
        return tuple(position.get(name) for name in self.keypoints)
