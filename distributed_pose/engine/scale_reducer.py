"""Groups the maps of images at several scales into people."""

from collections import defaultdict, deque
from collections.abc import Sequence

from distributed_pose.data.shards import ImageMaps
from distributed_pose.engine.reducer import Grouped, grouped
from distributed_pose.keypoints.sets import KeypointSet
from distributed_pose.pose.mean_decode import MeanDecoder
from distributed_pose.pose.scale_maps import OneScale


class ScaleReducer:
    """Groups the mean of each image's maps, in buffers that it keeps.

    It is thread-safe; as many threads as use it group at once.

    Args:
        keypoints: keypoints and limbs of the network, and keypoints of the dataset.
    """

    def __init__(self, keypoints: KeypointSet) -> None:
        self._keypoints = keypoints
        self._idle: deque[MeanDecoder] = deque()

    def warm_up(self) -> None:
        """Compiles or loads the decoder's code, so that no shard waits for it."""
        decoder = self._take()
        decoder.warm_up()
        self._idle.append(decoder)

    def group(self, parts: Sequence[ImageMaps]) -> Grouped:
        """Returns the people in images whose maps of all scales are in the given parts."""
        images = _by_image(parts)
        decoder = self._take()
        try:
            decoded = decoder.decode_scales([*images.values()])
        finally:
            self._idle.append(decoder)
        return grouped(tuple(images), decoded)

    def _take(self) -> MeanDecoder:
        """Returns a decoder that no other thread uses."""
        try:
            return self._idle.pop()
        except IndexError:
            return MeanDecoder(self._keypoints)


def _by_image(parts: Sequence[ImageMaps]) -> dict[int, list[OneScale]]:
    """Returns the maps of each image in the order of the scales, by image id."""
    found: dict[int, dict[int, OneScale]] = defaultdict(dict)
    for part in parts:
        arrays = part.heatmaps_NKHW, part.pafs_NPHW, part.geometries
        rows = zip(part.image_ids, part.scales, map(OneScale, *arrays), strict=True)
        for image_id, scale, one in rows:
            found[image_id][scale] = one
    return {image_id: [scales[n] for n in sorted(scales)] for image_id, scales in found.items()}
