"""The points of a sweep: all combinations of the swept settings, each with a configuration."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from distributed_pose.config.loading import parse_config
from distributed_pose.config.schema import KindConfig, RunConfig
from distributed_pose.devices.kinds import KINDS
from distributed_pose.errors import ConfigError

# The configuration keys that a sweep varies, in the order of a point's name.
SWEPT_KEYS = ("input", "precision", "batch_size", "devices", "backend")

# Each point is a run, and they take minutes.
_MAX_POINTS = 256

# A count of more digits is over every limit.
_COUNT = re.compile("[0-9]{1,10}")

# Parts of a name that some file system does not allow.
_IN_NAMES = str.maketrans({":": "_", "*": "all"})


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """A combination of the swept settings.

    Attributes:
        name: unique name, also that of its folder, such as `256x456-int8-8-cpu_1-auto`.
        settings: values as the options have them, by configuration key.
        config: configuration of its run.
    """

    name: str
    settings: Mapping[str, str]
    config: RunConfig

    @property
    def devices(self) -> str:
        """The devices as the option has them, such as `cpu:1` or `cuda:0+cuda:1`."""
        return self.settings["devices"]


def sweep_points(config: RunConfig, values: Mapping[str, Sequence[str]]) -> tuple[SweepPoint, ...]:
    """Returns all combinations of the swept values.

    Args:
        config: configuration of everything else, and of the keys that are not swept.
        values: values by configuration key, each as text; several devices of one point are joined
            by `+`.

    Raises:
        ConfigError: if a value is not possible, the configuration has a key that a sweep cannot
            use, or there are too many points.
    """
    if config.dump_maps:
        raise ConfigError(
            "dump_maps: the points of a sweep would write their maps to one folder",
            "leave dump_maps out, and use `evaluate` for the point whose maps you need",
        )
    axes = [
        tuple(dict.fromkeys(values.get(key, ()))) or (_text(config, key),) for key in SWEPT_KEYS
    ]
    combinations = [dict(zip(SWEPT_KEYS, one, strict=True)) for one in product(*axes)]
    if len(combinations) > _MAX_POINTS:
        raise ConfigError(
            f"a sweep of {len(combinations)} points, over the limit of {_MAX_POINTS}",
            "give fewer values",
        )
    return tuple(
        SweepPoint(name=_name(one), settings=one, config=_configured(config, one, values.keys()))
        for one in combinations
    )


def _text(config: RunConfig, key: str) -> str:
    value = getattr(config, key)
    return "+".join(value) if key == "devices" else str(value)


def _name(settings: Mapping[str, str]) -> str:
    return "-".join(settings[key].translate(_IN_NAMES) for key in SWEPT_KEYS)


def _configured(config: RunConfig, settings: Mapping[str, str], swept: Iterable[str]) -> RunConfig:
    parsed = parse_config({key: _value(key, settings[key]) for key in swept})
    update = {key: getattr(parsed, key) for key in swept}
    # The settings of a kind of device would win over the swept ones.
    cleared = {key: None for key in swept if key in KindConfig.model_fields}
    sections = {kind: config.section(kind).model_copy(update=cleared) for kind in KINDS}
    return config.model_copy(update={**update, **sections})


def _value(key: str, text: str) -> object:
    if key == "batch_size" and _COUNT.fullmatch(text):
        return int(text)
    return text.split("+") if key == "devices" else text
