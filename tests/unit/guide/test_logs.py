"""The lines of the guide's tools are read, and written back unchanged."""

import pytest

from distributed_pose.guide.logs import (
    AisLog,
    ComputeTimes,
    perf_text,
    read_ais,
    read_perf,
    read_trtexec,
    trtexec_text,
)

# From the guide, section 5.3.
PERF = """\
[e2e] throughputRate: 0.0806233, latency: 6.20168e+07
[data read] throughputRate: 40.3632, moduleLatency: 24.775
[preprocess] throughputRate: 39.412, moduleLatency: 25.373
[inference] throughputRate: 32.3342, Interface throughputRate: 755.13, moduleLatency: 30.6295
[postprocess] throughputRate: 0.0806403, moduleLatency: 12400.8
"""

# From the guide, section 5.4, which splits the tool's line into several.
TRTEXEC = """\
[I] GPU Compute Time:\x20
min = 3.56421 ms,\x20
max = 6.29639 ms,\x20
mean = 4.08213 ms,\x20
median = 4.04974 ms,\x20
percentile(99%) = 6.24855 ms
"""
TIMES = ComputeTimes(
    min_ms=3.56421, max_ms=6.29639, mean_ms=4.08213, median_ms=4.04974, p99_ms=6.24855
)
LINE = (
    "GPU Compute Time: min = 3.56421 ms, max = 6.29639 ms, mean = 4.08213 ms, "
    "median = 4.04974 ms, percentile(99%) = 6.24855 ms"
)

WHOLE_LOG = f"""\
&&&& RUNNING TensorRT.trtexec [TensorRT v8205] # trtexec --onnx=m.onnx --fp16 --shapes=data:4x3x8x8
[07/25/2022-19:02:50] [I] Precision: FP32+FP16
[07/25/2022-19:02:50] [I] Input inference shape: data=4x3x368x640
[07/25/2022-19:02:51] [I] Selected Device: Tesla T4
[07/25/2022-19:02:56] [I] Latency: min = 9.4 ms, max = 51.4 ms, mean = 16.5 ms, median = 11.6 ms
[07/25/2022-19:02:56] [I] {LINE}
[07/25/2022-19:02:56] [I] Total GPU Compute Time: 7.02881 s
"""

AIS = """\
[INFO] -----------------Performance Summary------------------
[INFO] NPU_compute_time (ms): min = 2.5, max = 4.0, mean = 3.2, median = 3.25, percentile(99%) = 3.9
[INFO] throughput 1000*batchsize{how}/NPU_compute_time.mean(3.2): 1250.0
[INFO] ------------------------------------------------------
"""


def test_the_guides_perf_file_is_written_back_unchanged() -> None:
    perf = read_perf(PERF)
    assert perf is not None
    assert perf.rows["inference"]["Interface throughputRate"] == 755.13
    assert perf.rows["e2e"]["latency"] == 62016800
    assert perf_text(perf) == PERF


def test_the_row_names_of_other_versions_of_the_tool_are_read() -> None:
    renamed = PERF.replace("[inference]", "[infer]").replace("[postprocess]", "[post]")
    assert read_perf(renamed) == read_perf(PERF)


@pytest.mark.parametrize("lost", ["[e2e]", "Interface throughputRate: 755.13, ", "latency"])
def test_a_text_without_all_rows_is_not_a_perf_file(lost: str) -> None:
    assert read_perf(PERF.replace(lost, "")) is None


@pytest.mark.parametrize("text", [TRTEXEC, f"[I] {LINE}\n", WHOLE_LOG])
def test_the_guides_trtexec_lines_are_written_back_as_the_tools_line(text: str) -> None:
    log = read_trtexec(text)
    assert log is not None
    assert log.times == TIMES
    assert trtexec_text(log.times) == f"[I] {LINE}\n"


def test_a_complete_trtexec_log_states_device_precision_and_batch() -> None:
    log = read_trtexec(WHOLE_LOG)
    assert log is not None
    assert (log.device, log.precision, log.batch) == ("Tesla T4", "f16", 4)
    alone = read_trtexec(TRTEXEC)
    assert alone is not None
    assert (alone.device, alone.precision, alone.batch) == ("", "", None)


@pytest.mark.parametrize(
    ("stated", "precision"),
    [("FP32", "f32"), ("FP32+FP16", "f16"), ("FP32+FP16+INT8", "int8"), ("FP32+BF16", "bf16")],
)
def test_the_precision_is_the_lowest_that_the_build_allows(stated: str, precision: str) -> None:
    log = read_trtexec(WHOLE_LOG.replace("FP32+FP16", stated).replace("--fp16 ", ""))
    assert log is not None
    assert log.precision == precision


def test_percentiles_are_none_for_a_log_without_them() -> None:
    log = read_trtexec(f"[I] {LINE.partition(', percentile')[0]}\n")
    assert log is not None
    assert log.times.p99_ms is None
    assert "percentile" not in trtexec_text(log.times)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[I] Total GPU Compute Time: 7.0 s",
        "GPU Compute Time: soon",
        LINE.replace("mean = 4.08213", "mean = 0"),
    ],
)
def test_a_log_without_compute_times_is_not_read(text: str) -> None:
    assert read_trtexec(text) is None


@pytest.mark.parametrize("how", ["(4)", ".mean(4)", ".mean(4.0)"])
def test_batch_and_rate_are_read_from_a_log_of_ais_bench(how: str) -> None:
    expected = AisLog(
        times=ComputeTimes(min_ms=2.5, max_ms=4.0, mean_ms=3.2, median_ms=3.25, p99_ms=3.9),
        batch=4,
        images_per_s=1250.0,
    )
    assert read_ais(AIS.format(how=how)) == [expected]
    assert read_ais(2 * AIS.format(how=how)) == [expected, expected]
    assert read_ais(PERF) == []
