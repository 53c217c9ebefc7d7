"""States of OPC 40100-1 against the transitions of the official node set, and the results in memory."""

from __future__ import annotations

from functools import cache
from itertools import product
from xml.etree import ElementTree

import pytest

from cmdiad_line.opcua.address_space import NODE_SET
from cmdiad_line.opcua.results import Entry, ResultFilter, ResultStore
from cmdiad_line.opcua.state import VisionState, steps, vision_state
from opcua_station import station_result
from station_messages import station_state

STATES = [
    *(VisionState(system) for system in ("Preoperational", "Halted", "Error")),
    *(VisionState("Operational", mode) for mode in ("Initialized", "Ready", "SingleExecution", "ContinuousExecution")),
]


@cache
def transitions() -> dict[str, tuple[str, str]]:
    """Return the states before and after each transition of the node set, by the name of the transition."""
    tags = "{http://opcfoundation.org/UA/2011/03/UANodeSet.xsd}"
    nodes = {node.get("NodeId"): node for node in ElementTree.parse(NODE_SET).getroot()}
    names = {key: str(node.get("BrowseName")).removeprefix("1:") for key, node in nodes.items()}
    ends = {}
    for key, node in nodes.items():
        forward = [item for item in node.iter(f"{tags}Reference") if item.get("IsForward") != "false"]
        references = {item.get("ReferenceType"): item.text for item in forward}
        if "FromState" in references:
            ends[names[key]] = names[references["FromState"]], names[references["ToState"]]
    return ends


@pytest.mark.parametrize("cause", ["", "StartSingleJob", "StartContinuous", "Stop", "Abort"])
def test_every_step_is_a_transition_of_the_node_set(cause):
    for before, after in product(STATES, STATES):
        present: dict[str, str] = {"system": before.system, "mode": before.mode or "Initialized"}
        for step in steps(before, after):
            known = [name for name in step.names(cause) if name in transitions()]
            assert transitions()[known[0]] == (step.before, step.after)
            assert present[step.machine] == step.before
            present[step.machine] = step.after
        assert present["system"] == after.system
        assert after.mode in ("", present["mode"])


@pytest.mark.parametrize("job", [None, "single", "continuous"])
@pytest.mark.parametrize("phase", ["starting", "stopped", "not-ready", "failed"])
def test_no_job_is_shown_while_the_station_is_not_ready(phase, job):
    assert vision_state(station_state(phase), job).system != "Operational"
    assert vision_state(None, job) == VisionState("Preoperational")


def test_results_are_bounded_and_the_oldest_are_forgotten():
    store = ResultStore(keep=3)
    for number in range(1, 6):
        assert store.add(Entry(result=station_result(number), job_id=str(number)))
    assert store.get("2") is None
    assert [entry.result_id for entry in store.select(ResultFilter(), 0, 10)[0]] == ["3", "4", "5"]
    handles = [store.new_handle() for _ in range(5)]
    assert [store.release(handle) for handle in handles] == [False, False, True, True, True]


def test_result_that_comes_again_is_stored_once():
    store = ResultStore(keep=3)
    first = Entry(result=station_result(1, verdict="NG", reason="deadline", score=None), job_id="1")
    assert store.add(first)
    assert not store.add(Entry(result=station_result(1), job_id="1"))
    assert store.get("1") == first


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, 1),
        ({"verdict": "NG", "reason": "score"}, 1),
        ({"verdict": "NG", "reason": "aborted", "score": None}, 3),
        ({"verdict": "NG", "reason": "deadline", "score": None}, 4),
    ],
)
def test_result_state(changes, state):
    assert Entry(result=station_result(1, **changes), job_id="1").result_state == state


@pytest.mark.parametrize(
    ("rule", "accepted"),
    [
        (ResultFilter(), True),
        (ResultFilter(part_id="bolt", meas_id="m", job_id="j", recipe_id="gear", result_state=1), True),
        (ResultFilter(part_id="nut"), False),
        (ResultFilter(meas_id="n"), False),
        (ResultFilter(job_id="k"), False),
        (ResultFilter(recipe_id="nut"), False),
        (ResultFilter(configuration_id="cd" * 32), False),
        (ResultFilter(result_state=4), False),
    ],
)
def test_filter(rule, accepted):
    assert rule.accepts(Entry(result=station_result(1, part_id="bolt", meas_id="m"), job_id="j")) == accepted
