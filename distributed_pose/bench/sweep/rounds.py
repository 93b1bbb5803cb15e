"""The rounds of a sweep: which images each has, and the figures of a point after it.

Everything is read from the point's run folder, so that an interrupted sweep judges as one that was
left alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distributed_pose.bench.sweep.judgement import Figures, within_error
from distributed_pose.config.schema import RunConfig
from distributed_pose.files.storage import Folder
from distributed_pose.locations import Location
from distributed_pose.metrics.bootstrap import resampled_aps
from distributed_pose.metrics.matches import match
from distributed_pose.metrics.precision_recall import PrecisionRecall
from distributed_pose.metrics.throughput import images_per_s
from distributed_pose.run.fingerprint import fingerprint
from distributed_pose.run.inputs import RunInputs
from distributed_pose.run.ledger import Ledger, LedgerEntry
from distributed_pose.run.ledger_files import LedgerFiles
from distributed_pose.run.partial_results import part_of

# Below this number of images AP is too uncertain to end any point.
_LEAST_IMAGES = 32

# Enough for a standard error (Efron and Tibshirani, An Introduction to the Bootstrap, 6.4).
_RESAMPLINGS = 400

_NS = 1e9


def round_sizes(num_images: int) -> list[int]:
    """Returns the number of images after each round: an eighth, a quarter, a half, and all.

    Small datasets have fewer rounds.
    """
    parts = [num_images // 8, num_images // 4, num_images // 2]
    return [*(part for part in parts if part >= _LEAST_IMAGES), num_images]


def chosen_images(image_ids: Sequence[int], number: int) -> frozenset[int]:
    """Returns images that a fixed seed chooses; fewer of them are a part of more.

    Args:
        image_ids: ids of all images, ascending.
        number: number of images to choose.
    """
    order = np.random.default_rng(0).permutation(len(image_ids))
    return frozenset(image_ids[position] for position in order[:number].tolist())


@dataclass(frozen=True, kw_only=True)
class RoundResults:
    """The results of a point for the images of a round.

    Attributes:
        ledger: ledger of these images.
        gaps: number of images of each result, and seconds since the one before it.
    """

    ledger: Ledger
    gaps: Sequence[tuple[int, float]]


def read_round(
    folder: Location, config: RunConfig, inputs: RunInputs, image_ids: frozenset[int]
) -> RoundResults:
    """Returns the results that a run folder has for some images.

    Args:
        folder: folder of the run.
        config: configuration of the run.
        inputs: inputs of the run.
        image_ids: ids of the images.

    Raises:
        SetupError: if the folder holds another run, or cannot be read.
    """
    ledger = Ledger([image for image in inputs.index.images if image.image_id in image_ids])
    entries = list(LedgerFiles(Folder(folder), fingerprint(config, inputs)).load())
    entries.sort(key=lambda entry: (entry.begun_s, entry.session, entry.elapsed_ns))
    return RoundResults(ledger=ledger, gaps=[*_accepted(ledger, entries, image_ids)])


def _accepted(
    ledger: Ledger, entries: Sequence[LedgerEntry], image_ids: frozenset[int]
) -> Iterator[tuple[int, float]]:
    """Adds entries in the order of time to a ledger, and yields images and seconds of each."""
    session, before_ns = "", 0
    for entry in entries:
        ids = entry.result.image_ids
        rows = [row for row, image_id in enumerate(ids) if image_id in image_ids]
        new = ledger.accept(replace(entry, result=part_of(entry.result, rows))) if rows else None
        if new:
            start_ns = before_ns if entry.session == session else 0
            yield len(new.result.image_ids), (entry.elapsed_ns - start_ns) / _NS
            session, before_ns = entry.session, entry.elapsed_ns


def figures_of(
    results: RoundResults, inputs: RunInputs, image_ids: frozenset[int]
) -> Figures | None:
    """Returns the figures of a point after a round, without energy and price.

    Returns None if the images have no labelled person.

    Args:
        results: results of the round.
        inputs: inputs of the run.
        image_ids: ids of the images of the round.
    """
    ids = sorted(image_ids)
    people = [*inputs.index.people.of_images(ids).rows()]
    sigmas = inputs.index.keypoints.sigmas
    matches = match(people, [*results.ledger.detections], ids, sigmas)
    run = PrecisionRecall(matches, inputs.index.originals(ids))
    ap = run.ap()
    if ap == -1.0:
        return None
    aps_S = resampled_aps(run, _RESAMPLINGS)
    rate = images_per_s(sum(images for images, _ in results.gaps), results.ledger.wall_ns)
    return Figures(
        images=len(ids),
        ap=ap,
        aps_S=np.where(aps_S == -1.0, np.nan, aps_S),
        images_per_s=rate,
        session_rates=tuple(
            images_per_s(session.images, session.wall_ns) for session in results.ledger.sessions
        ),
        within_error=within_error(results.gaps),
    )
