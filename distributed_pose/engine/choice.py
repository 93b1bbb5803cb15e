"""Chooses the backend of each device: the best one that all devices of its kind can start.

A backend is ruled out before its start if the node lacks something that it needs, and at its start
if it refuses the model or the card. Then the next backend is chosen, unless the user has named one.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from distributed_pose.backends.readiness import Readiness, examine
from distributed_pose.backends.registry import resolve_backend
from distributed_pose.config.selection import Selection
from distributed_pose.devices.lacks import listed, remedies
from distributed_pose.engine.deployment import Deployment, chip_of, fits, plan_deployment
from distributed_pose.errors import BackendError, SetupError
from distributed_pose.records.devices import DevicePlan, ImagesToRead

_LOG = logging.getLogger(__name__)

_DEVICES_SHOWN = 3


@dataclass(frozen=True)
class Site:
    """A device, and the readiness of its backends.

    Attributes:
        plan: the device.
        backends: readiness of each backend that the selection allows for the device, best first.
    """

    plan: DevicePlan
    backends: tuple[Readiness, ...]


def examine_here(selection: Selection, plan: DevicePlan) -> Site:
    """Returns a device of this machine with the readiness of its backends."""
    names = selection.kinds[plan.kind].candidates
    return Site(plan, examine(names, chip_of(selection, plan)))


class Choice:
    """Chooses the backends of a run's devices.

    Args:
        selection: selection of the run.
        model_format: format of the user's model; empty for any.
        images: images that the workers read; None if shards contain the images.
    """

    def __init__(
        self, selection: Selection, model_format: str, images: ImagesToRead | None = None
    ) -> None:
        self._selection = selection
        self._model_format = model_format
        self._images = images
        # Errors of failed starts, by kind of device and by backend; the best backend comes first.
        self._failed: dict[str, dict[str, BackendError]] = defaultdict(dict)

    def deployments(self, sites: Iterable[Site]) -> dict[str, Deployment]:
        """Returns the deployment of each device, by device name.

        Devices of a kind take the same backend. If no backend can start on all of them, each device
        takes its best one, and `warn_passed_over` warns of it.

        Args:
            sites: devices with the readiness of their backends.

        Raises:
            ConfigError: if a backend does not support the device kind or the precision.
            SetupError: if no backend can run the model on a device; the message names the missing
                parts.
        """
        by_kind: dict[str, list[Site]] = defaultdict(list)
        for site in sites:
            by_kind[site.plan.kind].append(site)
        chosen = {}
        for kind, alike in by_kind.items():
            settings = self._selection.kinds[kind]
            resolve_backend(settings.backend, kind, settings.precision)
            for site, backend in zip(alike, self.choose(alike), strict=True):
                if not backend:
                    raise self._none_left(site)
                deployment = plan_deployment(
                    self._selection, site.plan, backend, self._model_format, self._images
                )
                lines = tuple(self._passed_over(backend, site, alike))
                chosen[site.plan.name] = replace(deployment, passed_over=lines)
        return chosen

    def rule_out(self, error: BackendError, deployment: Deployment) -> None:
        """Rules out a backend for a kind of device, because it cannot start on one of them.

        Args:
            error: error of the failed start.
            deployment: deployment of the device on which the backend failed.

        Raises:
            BackendError: if the user has named the backend.
        """
        plan = deployment.spec.plan
        if len(self._selection.kinds[plan.kind].candidates) == 1:
            raise error
        self._failed[plan.kind][deployment.spec.backend] = error

    def choose(self, sites: Sequence[Site]) -> list[str]:
        """Returns the backend of each device of one kind; an empty name if none can start on it."""
        usable = [self._usable(site) for site in sites]
        able = [names for names in usable if names]
        shared = [name for name in able[0] if all(name in names for names in able)] if able else []
        return [(shared or names)[0] if names else "" for names in usable]

    def _usable(self, site: Site) -> list[str]:
        """Returns the backends that can start on a device, best first."""
        usable = [ready.backend for ready in site.backends if not self._reason(site, ready)]
        # A backend that the user has named is tried with any model, and its error gives the reason.
        if len(site.backends) == 1:
            return usable
        return [name for name in usable if self._fits(site, name)]

    def _fits(self, site: Site, backend: str) -> bool:
        return fits(backend, self._selection, site.plan.kind, self._model_format)

    def _reason(self, site: Site, ready: Readiness) -> str:
        """Returns the reason why a backend cannot start on a device; empty if it may start."""
        if missing := ready.missing(self._model_format):
            return f"{ready.backend} lacks {listed(missing)}: {remedies(missing)}"
        failed = self._failed[site.plan.kind].get(ready.backend)
        return f"{ready.backend} cannot start: {failed.message}" if failed else ""

    def _none_left(self, site: Site) -> SetupError:
        device, kind = site.plan.name, site.plan.kind
        for error in self._failed[kind].values():
            # The first error is that of the best backend, which the others would only replace.
            return SetupError(error.message, error.hint, device=error.device)
        if len(site.backends) == 1:
            (ready,) = site.backends
            missing = ready.missing(self._model_format)
            return SetupError(
                f"backend {ready.backend} lacks {listed(missing)}", remedies(missing), device=device
            )
        reasons = [
            self._reason(site, ready) or f"{ready.backend} does not take this model or profile"
            for ready in site.backends
        ]
        return SetupError(
            f"no backend can run the model on {kind} devices: {'; '.join(reasons)}",
            "check `distributed-pose doctor`, or choose other devices, such as devices=cpu",
            device=device,
        )

    def _passed_over(self, backend: str, site: Site, alike: Sequence[Site]) -> Iterator[str]:
        """Yields the reason why a device does not take a better backend, for each one."""
        for position, ready in enumerate(site.backends):
            if ready.backend == backend:
                return
            if not self._fits(site, ready.backend):
                continue
            if reason := self._reason(site, ready):
                yield reason
                continue
            # Another device of the kind cannot start it, and devices of a kind take the same one.
            for other in alike:
                if reason := self._reason(other, other.backends[position]):
                    yield f"on {_place(other.plan)} {reason}"
                    break


def warn_passed_over(deployments: Iterable[Deployment]) -> None:
    """Warns of backends that were passed over, and of kinds whose devices differ in backend."""
    devices: dict[tuple[str, str], list[str]] = defaultdict(list)
    backends: dict[str, dict[str, str]] = defaultdict(dict)
    for deployment in deployments:
        plan, backend = deployment.spec.plan, deployment.spec.backend
        backends[plan.kind].setdefault(backend, plan.name)
        for line in deployment.passed_over:
            devices[backend, line].append(plan.name)
    for (backend, line), names in devices.items():
        hidden = len(names) - _DEVICES_SHOWN
        more = f" and {hidden} more" if hidden > 0 else ""
        _LOG.warning(
            "%s%s: backend %s, since %s", ", ".join(names[:_DEVICES_SHOWN]), more, backend, line
        )
    for kind, found in backends.items():
        if len(found) > 1:
            chosen = ", ".join(f"{backend} on {device}" for backend, device in found.items())
            _LOG.warning("no backend can start on all %s devices: %s", kind, chosen)


def _place(plan: DevicePlan) -> str:
    return f"{plan.name} ({plan.node})" if plan.node else plan.name
