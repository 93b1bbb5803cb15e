"""The ledger: every image of the run gets exactly one result or one recorded failure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distributed_pose.data.shards import unpack_detections
from distributed_pose.errors import ExecutionError
from distributed_pose.metrics.coco_ap import PERSON_CATEGORY
from distributed_pose.metrics.throughput import merge
from distributed_pose.records import Durations, Failure, ImageRecord, ShardResult


class Ledger:
    """Collects shard results; a result that comes twice is counted once."""

    def __init__(self, images: Sequence[ImageRecord]) -> None:
        self._expected = {image.image_id: image for image in images}
        self._settled: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._num_images: Counter[str] = Counter()
        self._detections: list[dict[str, Any]] = []
        self._durations: list[Durations] = []
        self._inference_ns: Counter[str] = Counter()

    def accept(self, result: ShardResult) -> int:
        """Enters a result and returns how many images it settles that were open.

        Raises:
            ExecutionError: if it is of an image that is not in the run.
        """
        failed = {f.image_id: f for f in result.failures}
        if strangers := {*result.image_ids, *failed} - self._expected.keys():
            raise ExecutionError(
                f"a result of images that are not in the run: {sorted(strangers)}",
                device=result.device,
            )
        new = set(result.image_ids) - self._settled
        new_failures = {i: f for i, f in failed.items() if i not in self._settled}
        self._settled |= new | new_failures.keys()
        self._failures |= new_failures
        self._num_images[result.device] += len(new)
        rows = unpack_detections(result.detections)
        self._detections += [row for row in rows if row["image_id"] in new]
        self._durations.append(result.durations)
        self._inference_ns[result.device] += sum(result.durations.get("inference", ()))
        return len(new) + len(new_failures)

    @property
    def failures(self) -> list[Failure]:
        """Images without a result by ascending id; those that no device answered for among them."""
        lost = {
            image_id: Failure(image_id, image.file_name, "no result came back")
            for image_id, image in self._expected.items()
            if image_id not in self._settled
        }
        return sorted((self._failures | lost).values(), key=lambda failure: failure.image_id)

    @property
    def detections(self) -> list[dict[str, Any]]:
        """All detections in COCO results format and in canonical order.

        AP depends on the order of tied scores, so the order must not depend on who came first: by
        image id, then score from high to low, then keypoints.
        """
        rows = [_coco_result(row) for row in self._detections]
        return sorted(rows, key=lambda r: (r["image_id"], -r["score"], r["keypoints"]))

    @property
    def durations(self) -> dict[str, list[int]]:
        """All raw durations by stage."""
        return merge(self._durations)

    def num_images(self, device: str) -> int:
        """Returns how many images a device has settled with a result."""
        return self._num_images[device]

    def inference_ns(self, device: str) -> int:
        """Returns the time a device has spent in its model."""
        return self._inference_ns[device]


def _coco_result(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image_id": row["image_id"],
        "category_id": PERSON_CATEGORY,
        "keypoints": row["keypoints"],
        "score": row["score"],
    }
