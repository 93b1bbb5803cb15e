"""Surveys which backends can run on the devices of this machine or cluster, and what they lack."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from distributed_pose.backends.needs import Module
from distributed_pose.backends.readiness import DeviceSurvey, NodeSurvey, Survey
from distributed_pose.backends.requirements import lacks
from distributed_pose.cluster.address import joins_cluster
from distributed_pose.config.schema import RunConfig
from distributed_pose.config.selection import Selection, select
from distributed_pose.devices.discovery import local_accelerators
from distributed_pose.devices.host import num_cpus
from distributed_pose.devices.kinds import CPU
from distributed_pose.devices.lacks import Lack
from distributed_pose.devices.planning import Node, plan_devices
from distributed_pose.engine.choice import Choice, Site
from distributed_pose.engine.deployment import local_devices
from distributed_pose.engine.examination import examine_node
from distributed_pose.errors import SetupError
from distributed_pose.files.local import read_head
from distributed_pose.model.formats import HEAD_BYTES, format_of
from distributed_pose.packages import install_hint
from distributed_pose.records.devices import DevicePlan

# Modules that optional features need in addition to a backend, by the feature's name for users.
_FEATURES: Mapping[str, Module] = {
    "checkpoints (.pth)": Module("torch", install_hint("torch")),
    "precision int8": Module("nncf", install_hint("int8")),
    "clusters": Module("grpc", install_hint("cluster")),
    "plots of scale": Module("matplotlib.figure", install_hint("plots"), "Figure"),
}


def survey_devices(config: RunConfig) -> Survey:
    """Returns which backends can run on the devices that an evaluation would use.

    Raises:
        ConfigError: if the configuration asks for something that a backend does not support.
        SetupError: if a device is not available, or the cluster or the model is unusable.
    """
    return _survey(config, all_devices=False)


def survey_all(config: RunConfig) -> Survey:
    """Returns which backends can run on all devices, including the CPUs of each node.

    If the configuration names devices, only those are surveyed.

    Raises:
        ConfigError: if `survey_devices` raises it.
        SetupError: if `survey_devices` raises it.
    """
    return _survey(config, all_devices=True)


def missing_features() -> dict[str, tuple[Lack, ...]]:
    """Returns the items that this machine lacks, by the users' name of the optional feature."""
    return {name: lacks([need]) for name, need in _FEATURES.items()}


def _survey(config: RunConfig, *, all_devices: bool) -> Survey:
    selection = select(config)
    model_format = _model_format(config.model.path) if selection.runs_model else ""
    if joins_cluster(config.engine):
        # Ray takes a second to import.
        from distributed_pose.cluster.ray_survey import survey_nodes

        plans, nodes = survey_nodes(config, selection, every_device if all_devices else None)
    else:
        here = Node("", "", num_cpus(), accelerators=local_accelerators())
        plans = every_device(selection, [here]) if all_devices else local_devices(selection)
        nodes = [examine_node("", plans, selection)]
    return _summed_up(selection, plans, nodes, model_format)


def every_device(selection: Selection, nodes: Sequence[Node]) -> tuple[DevicePlan, ...]:
    """Returns the devices of nodes that are configured or, for `auto`, that its backends run on.

    Raises:
        SetupError: if a configured device is not available.
    """
    requests: Sequence[str] = selection.devices
    if selection.devices == ("auto",):
        found = {device.kind for node in nodes for device in node.accelerators}
        requests = [f"{kind}:*" for kind in selection.auto_kinds if kind in found]
        with_cpus = sum(node.cpus >= 1 for node in nodes)
        if with_cpus and selection.runs_on(CPU):
            requests.append(f"{CPU}:{with_cpus}")
    return plan_devices(requests, nodes, cpus=selection.cpus)


def _summed_up(
    selection: Selection,
    plans: Sequence[DevicePlan],
    nodes: Sequence[NodeSurvey],
    model_format: str,
) -> Survey:
    backends = {name: found for node in nodes for name, found in node.backends.items()}
    choice = Choice(selection, model_format)
    takes: dict[str, str] = {}
    for kind in {plan.kind for plan in plans}:
        meant = selection.kinds[kind].candidates
        sites = [
            Site(plan, tuple(ready for ready in backends[plan.name] if ready.backend in meant))
            for plan in plans
            if plan.kind == kind
        ]
        chosen = zip(sites, choice.choose(sites), strict=True)
        takes |= {site.plan.name: backend for site, backend in chosen}
    has_spares = selection.devices == ("auto",) and any(plan.kind != CPU for plan in plans)
    return Survey(
        tuple(
            DeviceSurvey(
                plan,
                backends[plan.name],
                takes[plan.name],
                is_spare=has_spares and plan.kind == CPU,
            )
            for plan in plans
        ),
        tuple(nodes),
        model_format,
    )


def _model_format(path: Path | None) -> str:
    """Returns the format of the configured model; empty if no model is configured.

    Raises:
        SetupError: if the file cannot be read.
    """
    if path is None:
        return ""
    try:
        return format_of(read_head(path, HEAD_BYTES), str(path))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", "see model.path") from None
