"""Checkpoints in all common forms are read, or refused with the reason."""

import io
import os
import pickle
import random
import struct
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from distributed_pose import SetupError
from distributed_pose.model.checkpoint import Checkpoint, load_checkpoint
from tests.checkpoints import State, demo_state, network_of, saved, snapshot, three_stages

LATER = ("refinement_stages.1", "refinement_stages.2")
BESIDE = ("optimizer", "scheduler", "iter", "current_epoch")


@pytest.fixture(scope="module")
def weights() -> State:
    return demo_state()


@pytest.fixture(scope="module")
def three(weights: State) -> State:
    return three_stages(weights)


def load(content: bytes, refinement_stages: int = 1) -> Checkpoint:
    return load_checkpoint(content, "a.file", refinement_stages)


def refusal(content: bytes, refinement_stages: int = 1) -> str:
    with pytest.raises(SetupError) as caught:
        load(content, refinement_stages)
    text = str(caught.value)
    assert text.startswith(("a.file ", "cannot read a.file"))
    assert text.isprintable()
    return text


def renamed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def cast(state: State, dtype: torch.dtype) -> State:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


def strided(state: State) -> State:
    """Returns the same values, not contiguous in memory."""
    return {name: torch.stack([t, t], -1)[..., 0] for name, t in state.items()}


def without_counters(state: State) -> State:
    return {name: t for name, t in state.items() if "num_batches" not in name}


def lightning(state: State) -> dict[str, object]:
    beside = {"epoch": 3, "hyper_parameters": {"lr": 1e-3, "layers": [1, 2]}, "callbacks": {}}
    return {"state_dict": renamed(state, "model."), "optimizer_states": [{}], **beside}


def nested(depth: int) -> list[object]:
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


FORMS: dict[str, Callable[[State], bytes]] = {
    "bare": saved,
    "legacy": lambda s: saved(s, zipped=False),
    "snapshot": lambda s: saved(snapshot(s)),
    "legacy snapshot": lambda s: saved(snapshot(s), zipped=False),
    "pickle protocol 3": lambda s: saved(s, protocol=3),
    "ordered": lambda s: saved(OrderedDict(s)),
    "parameters": lambda s: saved(
        {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()}
    ),
    "safetensors": safetensors.torch.save,
    "safetensors, prefixed": lambda s: safetensors.torch.save(renamed(s, "net.")),
    "DataParallel": lambda s: saved({"state_dict": renamed(s, "module.")}),
    "twice DataParallel": lambda s: saved(renamed(s, "module.module.")),
    "net.": lambda s: saved(renamed(s, "net.")),
    "model., as the backbone is called": lambda s: saved(renamed(s, "model.")),
    "compiled": lambda s: saved(renamed(s, "_orig_mod.")),
    "Lightning": lambda s: saved(lightning(s)),
    "averaged": lambda s: saved({"n_averaged": torch.tensor(3), **renamed(s, "module.")}),
    "average in its own key": lambda s: saved({"state_dict": s, "ema": cast(s, torch.float16)}),
    "average in the same mapping": lambda s: saved({**s, **renamed(three_stages(s), "ema.")}),
    "another key": lambda s: saved({"model_state_dict": s, "optimizer": {}, "epoch": 3}),
    "before PyTorch 0.4.1": lambda s: saved(without_counters(s), zipped=False),
    "float64": lambda s: saved(cast(s, torch.float64)),
    "not contiguous": lambda s: saved(strided(s)),
    "values beside the weights": lambda s: saved({**s, "epoch": 3}),
    "deep values beside": lambda s: saved(snapshot(s, args=nested(200))),
    "a counter beside": lambda s: saved(snapshot(s, milestones=Counter([1, 2]))),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_in_any_usual_form_gives_the_same_network(weights: State, form: str) -> None:
    loaded = network_of(load(FORMS[form](weights)))
    assert not loaded.training
    found = loaded.state_dict()
    assert found.keys() == weights.keys()
    for name, tensor in without_counters(found).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_converted_to_float32(
    weights: State, dtype: torch.dtype
) -> None:
    narrow = cast(weights, dtype)
    for name, tensor in without_counters(network_of(load(saved(narrow))).state_dict()).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, narrow[name].float()), name


def test_the_published_file_is_loaded_with_its_first_stage_and_a_note_on_the_others(
    three: State,
) -> None:
    found = load(saved(snapshot(three), zipped=False))
    assert found.refinement_stages == 1
    assert found.unused == (*LATER, *BESIDE)
    assert found.notes == ("Checkpoint: 1 of 3 refinement stages used, the others are left out.",)


@pytest.mark.parametrize("stages", [2, 3])
def test_more_stages_are_loaded_on_request(three: State, stages: int) -> None:
    found = load(saved(snapshot(three)), stages)
    state = network_of(found).state_dict()
    assert found.refinement_stages == stages
    assert found.unused == (*LATER[stages - 1 :], *BESIDE)
    for name, tensor in without_counters(state).items():
        assert torch.equal(tensor, three[name]), name


def test_a_bare_state_dict_of_one_stage_has_no_notes(weights: State) -> None:
    found = load(saved(weights))
    assert (found.unused, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("form", "unused", "note"),
    [
        ("DataParallel", (), "the prefix module. was removed from all names"),
        ("twice DataParallel", (), "the prefix module.module. was"),
        ("another key", ("optimizer", "epoch"), "those under model_state_dict"),
        ("average in its own key", ("ema",), "copies of the network not used: ema."),
        ("average in the same mapping", ("ema",), "copies of the network not used: ema."),
        ("values beside the weights", ("epoch",), ""),
    ],
)
def test_changes_to_the_names_in_a_file_are_noted(
    weights: State, form: str, unused: tuple[str, ...], note: str
) -> None:
    found = load(FORMS[form](weights))
    assert found.unused == unused
    assert note in " ".join(found.notes)


def test_names_of_unused_stages_are_listed_as_in_the_file(three: State) -> None:
    assert load(saved(renamed(three, "net."))).unused == tuple(f"net.{name}" for name in LATER)


def test_many_or_odd_names_beside_the_weights_are_shortened_to_a_line(weights: State) -> None:
    beside = {f"key {number}\x1b[2J\n{'x' * 500}": number for number in range(1000)}
    found = load(saved({"state_dict": weights, **beside}))
    assert found.unused[-1] == "and 980 more"
    assert all(name.isprintable() and len(name) < 100 for name in found.unused)


@pytest.mark.parametrize(("there", "asked"), [(1, 2), (1, 3), (2, 3)])
def test_more_stages_than_the_file_has_are_refused_with_their_number(
    three: State, there: int, asked: int
) -> None:
    state = {n: t for n, t in three.items() if not n.startswith(LATER[there - 1 :])}
    text = refusal(saved(state), asked)
    assert f"has {there} refinement stage{'s' * (there > 1)}, and" in text
    assert f"model.refinement_stages asks for {asked}" in text


def test_stages_are_counted_up_to_a_gap(three: State) -> None:
    state = {name: t for name, t in three.items() if not name.startswith(LATER[0])}
    found = load(saved(state))
    assert found.unused == (LATER[1],)
    assert found.notes == ("Checkpoint: 1 of 2 refinement stages used, the others are left out.",)
    assert "has 1 refinement stage, and" in refusal(saved(state), 2)


def test_a_file_without_any_refinement_stage_is_another_network(weights: State) -> None:
    state = {name: t for name, t in weights.items() if not name.startswith("refinement")}
    text = refusal(saved(state))
    assert "missing: refinement_stages.0.trunk.0.initial.0.weight" in text


def half_prefixed(state: State) -> State:
    first = {name: t for name, t in state.items() if name.startswith("model.")}
    return {**renamed(first, "module."), **{n: t for n, t in state.items() if n not in first}}


OTHERS: dict[str, tuple[Callable[[State], object], str]] = {
    "a layer more": (lambda s: {**s, "cpm.conv.2.weight": torch.zeros(3)}, "1 surplus: cpm.conv.2"),
    "a module more": (lambda s: {**s, "attention.bias": torch.zeros(3)}, "1 surplus: attention.b"),
    "a layer more under the prefix": (
        lambda s: renamed({**s, "extra.bias": torch.zeros(1)}, "module."),
        "1 surplus: module.extra.bias",
    ),
    "a layer more beside the prefix": (
        lambda s: {**renamed(s, "net."), "mean": torch.zeros(3)},
        "1 surplus: mean",
    ),
    "a layer more in its stage": (
        lambda s: {**s, "refinement_stages.0.extra.bias": torch.zeros(1)},
        "1 surplus: refinement_stages.0.extra.bias",
    ),
    "a part": (
        lambda s: dict([*s.items()][:50]),
        "175 missing: model.4.4.bias, model.4.4.running_mean, ",
    ),
    "a prefix on some names": (half_prefixed, "missing: "),
    "another shape": (
        lambda s: renamed({**s, "cpm.align.0.bias": torch.zeros(7)}, "net."),
        "1 of another shape: cpm.align.0.bias [7] instead of [128]",
    ),
    "another network": (lambda _: torch.nn.Conv2d(3, 8, 3).state_dict(), "surplus: weight, bias"),
    "two networks": (
        lambda s: {**renamed(s, "student."), **renamed(s, "teacher.")},
        "several times, under student., teacher.",
    ),
    "two networks by key": (
        lambda s: {"student": s, "teacher": s},
        "several times: student, teacher",
    ),
    "no weights by key": (lambda _: {"optimizer": {}, "epoch": 3}, "it holds optimizer, epoch"),
    "a state_dict without tensors": (lambda _: {"state_dict": {"a": 1}}, "no state_dict with"),
    "numbers for names": (lambda _: {0: torch.zeros(3)}, "holds no state_dict"),
    "a value in a tensor's place": (
        lambda s: {**s, "cpm.align.0.bias": [0.0] * 128},
        "1 missing: cpm.align.0.bias",
    ),
    "nothing": (lambda _: {}, "holds no state_dict"),
    "a list": (lambda s: [*s.values()], "holds no state_dict"),
    "a tensor": (lambda _: torch.zeros(3), "holds no state_dict"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_network_or_a_part_of_the_network_is_refused(weights: State, case: str) -> None:
    change, message = OTHERS[case]
    assert message in refusal(saved(change(weights)))


def test_names_in_a_refusal_are_short_and_printable(weights: State) -> None:
    text = refusal(saved({**weights, "\x1b]0;title\x07" + "x" * 10**6: torch.zeros(1)}))
    assert r"1 surplus: \u001b]0;title\u0007xxx" in text
    assert len(text) < 400


NAME = "model.1.0.weight"

TYPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "int32": lambda t: t.to(torch.int32),
    "uint8": lambda t: t.to(torch.uint8),
    "bool": lambda t: t.to(torch.bool),
    "complex64": lambda t: t.to(torch.complex64),
    "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
    "sparse_coo": lambda t: t.to_sparse(),
    "sparse_csr": lambda t: t[:, 0, 0].to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
}


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("kind", TYPES)
def test_tensors_that_hold_no_weights_are_refused(weights: State, kind: str) -> None:
    name = NAME if kind != "sparse_csr" else "model.1.3.weight"
    text = refusal(saved({**weights, name: TYPES[kind](weights[name])}))
    assert f"1 of a type that holds no weights: {name} is " in text
    assert kind in text


@pytest.mark.filterwarnings("ignore:.*")
def test_quantised_weights_are_refused(weights: State) -> None:
    quantised = torch.quantize_per_tensor(weights[NAME], 0.1, 0, torch.qint8)
    assert "qint8" in refusal(saved({**weights, NAME: quantised}))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_weights_that_are_not_finite_in_float32_are_refused(weights: State, value: float) -> None:
    wrong = weights[NAME].double()
    wrong[3] = value
    text = refusal(saved({**weights, NAME: wrong}))
    assert f"values that are not finite in 1 tensors: {NAME}" in text


def test_a_variance_below_zero_is_refused(weights: State) -> None:
    name = "model.1.1.running_var"
    assert f"variances below zero: {name}" in refusal(saved({**weights, name: -weights[name]}))


def test_a_tensor_larger_than_its_stored_values_is_refused(weights: State) -> None:
    huge = torch.zeros(1).expand(10**12)
    text = refusal(saved({**weights, NAME: huge}))
    assert f"{NAME} [1000000000000] instead of" in text


class Unsafe:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("value", "met"),
    [
        (np.float64(0.4), "numpy._core.multiarray.scalar"),
        (np.zeros(3), "numpy._core.multiarray._reconstruct"),
        (Namespace(lr=1), "argparse.Namespace"),
        (Path("a"), "pathlib"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (range(3), "range"),
    ],
)
def test_a_refused_pickle_names_the_type_and_the_way_to_save_weights(
    weights: State, value: object, met: str, *, zipped: bool
) -> None:
    text = refusal(saved(snapshot(weights, best=value), zipped=zipped))
    assert f"holds a value of type {met}" in text
    assert "torch.save(network.state_dict()" in text
    assert "weights_only" not in text


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, *, zipped: bool) -> None:
    text = refusal(saved({"weight": Unsafe(tmp_path / "made")}, zipped=zipped))
    assert "mkdir" in text
    assert not (tmp_path / "made").exists()


def legacy(pickled: bytes) -> bytes:
    """Returns a legacy file whose content is a pickle."""
    start = saved({}, zipped=False)
    at = start.index(b"}q\x00.\x80\x02]")
    return start[: at - 2] + pickled + b"\x80\x02]q\x00."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (
            b"\x80\x02cos\x1b[31m\nsystem\x1b]0;x\x07\n)R.",
            r"type os\u001b[31m.system\u001b]0;x\u0007",
        ),
        (b"\x80\x02" + b"0N.", "is damaged, or has a pickle protocol"),
        (b"\x80\x02" + b"N" * 3_000_000 + b".", "millions of instructions"),
        (b"\x80\x02" + b"(" * 1_000_000 + b"N.", "holds no state_dict"),
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds no state_dict"),
        (b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x01\x85R.", "of type bytearray"),
        (b"\x80\x02X\xff\xff\xff\xff.", "is damaged"),
        (b"\x80\x02\x8a\xff", "is damaged"),
        (b"\x80\x04\x95" + b"\xff" * 8 + b"}.", "pickle protocol"),
    ],
)
def test_hostile_pickles_are_refused_in_one_line(pickled: bytes, message: str) -> None:
    text = refusal(legacy(pickled))
    assert message in text


def test_attributes_that_hide_methods_of_containers_change_nothing(weights: State) -> None:
    state = OrderedDict(weights)
    state.itemz = state.keyz = 3  # type: ignore[attr-defined]
    state[NAME] = state[NAME].clone()
    state[NAME].detacz = 3  # type: ignore[attr-defined]
    content = saved({"state_dict": state}, zipped=False)
    for name in (b"items", b"keys", b"detach"):
        spelt = name[:-1] + b"z"
        assert content.count(spelt) == 1
        content = content.replace(spelt, name)
    assert load(content).notes == ()


def test_a_plain_pickle_is_distinguished_from_a_file_of_pytorch() -> None:
    assert "is a pickle, and not a file of torch.save" in refusal(pickle.dumps({"a": 1}, 2))


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return stream.getvalue()


def script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), stream)
    return stream.getvalue()


def program() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(2),)), stream)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (script, "is a TorchScript program"),
        (program, "is a program of torch.export"),
        (lambda: archive({"a.txt": b"a"}), "torch.save did not write"),
        (lambda: archive({"a/data.pkl": b"."}), "is damaged or cut off"),
        (lambda: archive({"a/data.pkl": b"N0" * 2**21}), "unpacks to"),
        (
            lambda: archive(
                {f"a/data/{n}": bytes(2**26) for n in range(8)} | {"a/data.pkl": b"N."},
                zipfile.ZIP_DEFLATED,
            ),
            "unpacks to 536870914 bytes",
        ),
        (lambda: b"PK\x01\x02" * 30_000, "has over 20000 members"),
        (lambda: b"PK\x03\x04 broken", "damaged or cut off"),
        (lambda: b"", "is damaged or cut off"),
        (lambda: b"\x80\x02", "is damaged or cut off"),
    ],
)
def test_archives_that_are_not_checkpoints_are_refused_by_their_kind(
    content: Callable[[], bytes], message: str
) -> None:
    assert message in refusal(content())


def replaced_number(content: bytes, number: int, by: int) -> bytes:
    old, new = b"M" + struct.pack("<H", number), b"\x8a\x08" + struct.pack("<q", by)
    assert old in content
    return content.replace(old, new)


@pytest.mark.parametrize("claimed", [10**4, 10**9, 10**12, 2**62])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(
    claimed: int, *, zipped: bool
) -> None:
    content = saved({"a": torch.zeros(1009)}, zipped=zipped)
    if zipped:
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            members = {name: opened.read(name) for name in opened.namelist()}
        (name,) = (name for name in members if name.endswith("data.pkl"))
        members[name] = replaced_number(members[name], 1009, claimed)
        changed = archive(members)
    else:
        changed = replaced_number(content, 1009, claimed)
    text = refusal(changed)
    assert "is damaged or cut off" in text or "more memory than is available" in text


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 10**7) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 10**5) + b"{" * 10**5,
        struct.pack("<Q", 59) + b'{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,4]}}',
        struct.pack("<Q", 66)
        + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000000]}}',
    ],
)
def test_safetensors_with_lying_headers_are_refused(content: bytes) -> None:
    assert "is a damaged safetensors file" in refusal(content)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_files_damaged_at_any_position_are_refused_in_one_line(form: str) -> None:
    tensors = {"a": torch.arange(64.0), "b.c": torch.ones(3)}
    whole = safetensors.torch.save(tensors) if form == "safetensors" else None
    whole = whole or saved(snapshot(tensors), zipped=form == "zip")
    random_ = random.Random(5)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(random_.randint(0, 6)):
            damaged[random_.randrange(len(damaged))] = random_.randrange(256)
        cut = random_.choice([len(damaged), random_.randrange(9, len(damaged))])
        content = bytes(damaged[:cut])
        refusal(content)
