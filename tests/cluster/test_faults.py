"""What a cluster does to runs does not change what they learn. `python tests/faults.py` does all of it, often."""

import pytest
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from faults import Harness

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def harness(dev_cluster, tmp_path_factory):
    with Harness(dev_cluster, tmp_path_factory.mktemp("faults"), epochs=6, tasks=1).ready() as harness:
        yield harness


@pytest.mark.parametrize("name", ["scancel --signal=USR2", "preemption"])
def test_nothing_is_lost_on_a_signal(harness, name):
    outcome = harness.attempt(name, 0)
    assert outcome.came_back and outcome.identical and outcome.tracked.startswith("yes"), outcome
    assert (outcome.lost, outcome.repeated) == (0, 0) and outcome.restarts == 1, outcome


@pytest.mark.parametrize("name", ["rank killed", "killed in a save"])
def test_a_kill_costs_the_steps_since_the_last_checkpoint(harness, name):
    outcome = harness.attempt(name, 0)
    assert outcome.came_back and outcome.identical and outcome.tracked.startswith("yes"), outcome
    assert outcome.restarts == 1 and outcome.repeated <= outcome.lost, outcome


def test_a_tracking_server_that_dies_costs_nothing(harness):
    outcome = harness.attempt("MLflow dies", 0)
    assert outcome.came_back and outcome.identical and outcome.tracked.startswith("yes"), outcome
    assert outcome.restarts == 0 and outcome.lost == 0, outcome


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(harness):
    outcome = harness.attempt("damaged checkpoint", 0)
    assert outcome.came_back and outcome.identical and outcome.tracked.startswith("yes"), outcome
    assert outcome.restarts == 1 and outcome.lost > 0, outcome
