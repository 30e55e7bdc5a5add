"""The system bench: its arithmetic by value, and what needs no Ray at tiny size. The rest is the bench itself, over a running system."""

import json
import math
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

import psutil
import pytest
from killing import until

from bench.system import frames, isolation, questions, scale, soak
from bench.system.arrivals import Arrivals
from bench.system.asking import Asked, answered, outcome
from bench.system.figures import Table, ms, percentile, slope_an_hour
from bench.system.running import NotRunning, System, end, redis
from model import embedded
from model.backbone import Backbone
from pipeline.core import CarrierKey
from storage.store import CarrierStore


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 50, 5.0),
        ([3, 1, 2], 50, 2),
        ([1, 2, 3, 4], 50, 2),
        (range(100), 95, 94),
        (range(100), 99, 98),
        ([1, 2], 100, 2),
        ([4, 9], 0, 4),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(values: Sequence[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_a_slope_is_that_of_the_line_through_the_values() -> None:
    assert slope_an_hour([0, 10, 20], [100, 101, 102]) == pytest.approx(360)
    assert slope_an_hour([0, 10, 20, 30], [5, 7, 7, 5]) == pytest.approx(0)
    assert slope_an_hour([1_000_000, 1_003_600], [50, 40]) == pytest.approx(-10)


def test_what_cannot_be_measured_is_not_a_number_and_null_in_json() -> None:
    assert math.isnan(percentile([], 50)) and math.isnan(slope_an_hour([1], [2])) and math.isnan(ms(math.nan))
    table = Table(title="t", columns=("a", "b"), rows=[[1, math.nan]], notes=("n",), more={"series": [2]})
    assert json.loads(json.dumps(table.as_json(), allow_nan=False)) == {
        "title": "t",
        "rows": [{"a": 1, "b": None}],
        "notes": ["n"],
        "series": [2],
    }


@pytest.mark.parametrize("columns", [isolation.COLUMNS, frames.COLUMNS, scale.COLUMNS, scale.COSTS, questions.COLUMNS, soak.COLUMNS])
def test_no_figure_hides_another_in_json(columns: Sequence[str]) -> None:
    assert len(set(columns)) == len(columns)


def test_milliseconds_have_a_decimal_where_it_counts() -> None:
    assert [ms(0.01234), ms(0.25), ms(12.3456), ms(-0.003)] == [12.3, 250, 12346, -3]


def test_only_answers_are_timed_and_all_else_is_told() -> None:
    asked = [Asked(at_s=0, took_s=1, first_s=None, status=status) for status in (200, 429, 200, 0, 429)]
    assert len(answered(asked)) == 2
    assert outcome(asked) == "2, 1 with no reply, 2 with 429"


def test_memory_by_process_and_of_all() -> None:
    samples = [(0.0, {"prefill 1": 100.0, "ray 2": 50.0}), (1800.0, {"prefill 1": 130.0}), (3600.0, {"prefill 1": 120.0, "decode 3": 10.0})]
    prefill, decode, everything = soak.rows(samples)
    assert prefill == ["prefill", 100, 120, 130, pytest.approx(20), pytest.approx(-20)]
    assert decode[:4] == ["decode", 10, 10, 10] and math.isnan(decode[4])
    assert everything[:4] == ["all", 150, 130, 150]
    assert soak.series(samples)["ray 2"] == [50, None, None]


def test_cost_is_split_by_stage_and_the_limit_is_named() -> None:
    metrics = {
        "longwatch_prefill_batch_frames_sum": 80.0,
        "longwatch_prefill_batch_frames_count": 40.0,
        "longwatch_camera_frames_dropped_total": 20.0,
    }
    cpu_s = {"ingest": 0.4, "prefill": 1.6, "redis": 0.08, "cameras": 0.8, "ray": 0.2, "decode": 0.2}
    level = scale.Level(cameras=8, seconds=10, lags=[0.1] * 80, metrics=metrics, cpu_s=cpu_s, busy_s=4.28, refused="")
    alone = {"vision": 0.004, "LLM": 0.008, "picture": 0.002, "store": 0.001}
    told = dict(zip(scale.COSTS, level.costs(alone), strict=True))
    expected = {"ingest": 5.0, "vision": 4.0, "LLM": 8.0, "picture": 2.0, "store": 1.0, "rest of prefill": 5.0}
    expected |= {"Redis": 1.0, "Ray, API, decode": 5.0, "all": 31.0, "simulated cameras": 10.0}
    assert {name: told[name] for name in expected} == pytest.approx(expected)
    told = dict(zip(scale.COLUMNS, level.row(), strict=True))
    assert told["frames/s"] == 8 and told["dropped/s"] == 2 and told["frames a batch"] == 2 and told["limit"] == "none"
    assert told["cores busy"] == pytest.approx(0.328) and told["with other work"] == pytest.approx(0.1)
    full = scale.Level(cameras=9, seconds=10, lags=[0.1] * 80, metrics=metrics, cpu_s=cpu_s | {"prefill": 9.7}, busy_s=0, refused="no room")
    assert full.limit() == "prefill, 0.97 of a core"
    assert replace(full, busy_s=1e6).limit().startswith("all ")
    assert replace(full, cameras=8).limit() == "one more is refused: no room"


def test_every_way_to_answer_is_timed() -> None:
    table = frames.measured(frames.TINY)
    ways = {frames.CARRIERS, frames.CHOSEN, frames.DENSE, frames.REKV}
    told = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert {(row["frames"], row["way"]) for row in told} == {(count, way) for count in frames.TINY.frames for way in ways}
    for row in told:
        lowest, first, highest, whole = (float(row[name]) for name in ("lowest", "first token ms", "highest", "whole answer ms"))
        assert 0 < lowest <= first <= highest and first < whole and row["runs"] >= 1
    assert all(row["whole"] == 1 for row in told if row["way"] == frames.CARRIERS)
    assert len(json.dumps(table.as_json(), allow_nan=False)) > 0


def test_what_would_take_too_long_is_said_and_not_run() -> None:
    sizes = frames.Sizes(frames=(2, 4), models=("embedded",), seconds=0, longest_s=0)
    rows = list(frames.rows("embedded", frames.Answering("embedded"), sizes))
    assert [row[3] for row in rows if row[2] == frames.DENSE][1] == "not run: too long"
    assert not [row for row in rows if row[2] != frames.DENSE and row[3] == "not run: too long"]


@pytest.mark.redis
def test_a_day_is_put_by_the_stores_own_code_and_its_arrivals_are_seen() -> None:
    with redis() as server, Arrivals(server.url) as arrivals:
        began_s = time.time()
        told = questions.fill(server.url, ["gate-0", "yard-1", "dock-2", "lobby-3"], 70)
        assert until(lambda: len(arrivals.seen) == 280, 60) < 60
        assert told.startswith("280 carriers")
        assert len(arrivals.lags(began_s, time.time())) == 280
        assert {camera for camera, _, _ in arrivals.seen} == {"gate-0", "yard-1", "dock-2", "lobby-3"}
        store = CarrierStore(server.url, Backbone.load(embedded.FOLDER).spec.fingerprint)
        times = store.times("dock-2")
        assert len(times) == 70 and set(b - a for a, b in zip(times, times[1:], strict=False)) == {1000}
        assert all(store.get([CarrierKey(camera_id="dock-2", at_ms=at) for at in times]))
        store.close()


@pytest.mark.redis
def test_each_stage_of_prefill_costs_something() -> None:
    with redis() as server:
        costs = scale.alone(server.url, 2, 1)
    assert costs.keys() == set(scale.STAGES) and all(cost > 0 for cost in costs.values())


def test_processes_are_known_by_what_they_run_and_end_together() -> None:
    script = "exec -a ray::PrefillActor.step sleep 600 & exec -a gcs_server sleep 600 & echo; trap '' TERM; wait"
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout and process.stdout.readline()
        system = System("", process, {"redis": os.getpid()})
        assert until(lambda: sorted(system.processes().values()) == ["longwatch up", "prefill", "ray", "redis"], 60) < 60
        assert system.cpu_s().keys() == {"longwatch up", "prefill", "ray", "redis"}
        assert f"redis {os.getpid()}" in system.resident_mb() and all(mb > 0 for mb in system.resident_mb().values())
        pids = set(system.processes()) - {os.getpid()}
    finally:
        end(process, patience_s=0.1)
    assert until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 60) < 60
    with pytest.raises(NotRunning, match="ended"):
        system.processes()
