"""On a real SLURM: labels are those of one machine, whatever becomes of a node."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dev_cluster import dev_cluster  # noqa: F401 (a fixture)
from image_files import picture
from tiny_networks import depth_anything

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slurm, pytest.mark.slow]
PROFILE = {
    "partition": "main", "nodes": 1, "tasks_per_node": 1, "time_limit": 30, "signal_seconds": 30, "scale": "smoke",
    "runtime": {"device": "cpu", "threads": 1, "usage_seconds": 0},
}  # fmt: skip


def labels(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("pseudo_depth/**/*.png")}


def test_an_array_of_four_of_which_a_node_dies(dev_cluster, tmp_path):
    pytest.importorskip("transformers")
    network = depth_anything(tmp_path / "anything")
    for name in ("here", "there"):
        for n in range(4 * 3 * 64 - 10):
            file = tmp_path / name / f"set/train/rgb/{n:04d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(n % 50, (120, 160)).save(file)
    profile = tmp_path / "dev.yaml"
    profile.write_text(yaml.safe_dump(PROFILE))

    def give(name: str, *words: str) -> str:
        command = [sys.executable, ROOT / "sweeps/label.py", tmp_path / name / "set", "--depth", network]
        return dev_cluster.run(*command, "--runs", tmp_path / name / "runs", *words, timeout=600, cwd=ROOT)

    on_cluster = ("--cluster", str(profile), "--shards", "4")
    assert "submitted pseudo_depth: 4 jobs" in give("there", *on_cluster)
    there = tmp_path / "there/set"
    dev_cluster.wait(lambda: len(labels(there)) > 100, "labels", 300)
    node = next(name for name, state in dev_cluster.node_states().items() if "alloc" in state or "mix" in state)
    dev_cluster.kill_node(node)
    killed, before = time.monotonic(), len(labels(there))
    assert before < 4 * 3 * 64 - 10
    dev_cluster.wait(lambda: "down" in dev_cluster.node_states()[node], "the node down", 180)
    dev_cluster.revive_node(node)
    dev_cluster.wait(lambda: "4 of 4 runs done" in give("there", *on_cluster, "--status"), "all labelled", 900)
    print(f"{node} killed with {before} labels; all {time.monotonic() - killed:.0f} s later")
    assert "Everything is done already" in give("there", *on_cluster)
    starts = [path.read_text().count('"kind": "start"') for path in (tmp_path / "there/runs").glob("*/journal.jsonl")]
    print("starts of each run:", starts)
    assert len(starts) == 4 and sum(starts) > 4, "one was restarted"
    subprocess.run(
        [sys.executable, "-m", "multimae.label", tmp_path / "here/set", "--depth", network, "--no-track",
         "--runs", tmp_path / "here/runs"], check=True, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    assert labels(there) == labels(tmp_path / "here/set")
