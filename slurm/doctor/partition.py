"""What a partition has: its time limit and its nodes, as `sinfo` tells. Imports no torch."""

import grp
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from multimae.config.settings import nearest

from .. import scheduler
from ..fields import minutes_of
from ..profile import Resources
from . import Check, bad, good, note

FIELDS = "%R|%P|%a|%l|%c|%m|%G|%D|%t|%s|%g|%f"
USABLE = ("idle", "mix", "alloc", "comp", "plnd", "resv")  # now, or when what runs there ends


@dataclass(frozen=True)
class Nodes:
    """Some equal nodes of a partition."""

    count: int
    state: str  # sinfo's short word, such as idle or drain
    cpus: int
    memory_gb: float
    gpus: int
    features: frozenset[str] = frozenset()

    @property
    def usable(self) -> bool:
        return self.state.rstrip("*~#!%$@^-+").startswith(USABLE)

    def lacks(self, resources: Resources) -> Iterator[Check]:
        """What a job's share of one node asks for, and these nodes do not have."""
        cpus = resources.tasks * resources.cpus_per_task
        if cpus > self.cpus:
            fits = max(1, self.cpus // resources.tasks)
            yield bad(
                f"{resources.tasks} processes x {resources.cpus_per_task} CPUs are {cpus}, a node has {self.cpus}",
                f"cpus_per_task: {fits}" if resources.tasks <= self.cpus else f"tasks_per_node: {self.cpus}",
            )
        if resources.gpus_per_node > self.gpus:
            yield bad(
                f"gpus_per_node {resources.gpus_per_node}, but a node has {self.gpus}", f"gpus_per_node: {self.gpus}"
            )
        if (resources.mem_gb or 0) > self.memory_gb:
            yield bad(
                f"mem_gb {resources.mem_gb:g}, but a node has {self.memory_gb:.0f}", "mem_gb: 0 takes all there is"
            )
        if resources.constraint and not _has(self.features, resources.constraint):
            have = ", ".join(sorted(self.features)) or "none"
            text = f"constraint {resources.constraint}, but a node has the features: {have}"
            yield bad(text, "constraint: one of them")


@dataclass(frozen=True)
class Partition:
    name: str
    default: bool
    up: bool
    minutes: float | None  # None: no limit
    limit: str  # as sinfo writes it
    nodes: tuple[Nodes, ...]
    max_nodes: int | None = None  # of a job; None: no limit
    groups: tuple[str, ...] = ()  # whose users may submit here; empty: everyone

    def judge(self, resources: Resources) -> Iterator[Check]:
        """Whether a job that asks for `resources` can ever start here: most of what cannot, sbatch takes all the same,
        and it waits for ever."""
        if not self.up:
            yield bad(f"partition {self.name} is not up", "choose another partition, or ask the administrators")
        if self.minutes is not None and resources.minutes > self.minutes:
            yield bad(
                f"time_limit {resources.time_limit}, but partition {self.name} allows {self.limit}",
                f"time_limit: {self.limit}",
            )
        if self.max_nodes is not None and resources.nodes > self.max_nodes:
            yield bad(
                f"{resources.nodes} nodes, but partition {self.name} allows a job {self.max_nodes}",
                f"nodes: {self.max_nodes}",
            )
        if self.groups and not _mine(self.groups):
            yield bad(f"partition {self.name} is for the groups {', '.join(self.groups)}", "partition: another one")
        suited = [nodes for nodes in self.nodes if not list(nodes.lacks(resources))]
        if not suited:
            largest = sorted(self.nodes, key=lambda nodes: (nodes.gpus, nodes.cpus, nodes.memory_gb), reverse=True)
            best = min(largest, key=lambda nodes: len(list(nodes.lacks(resources))), default=None)
            yield from best.lacks(resources) if best else [bad(f"partition {self.name} has no nodes", "choose another")]
            return
        if not resources.gpus_per_node and (gpus := max(nodes.gpus for nodes in suited)):
            yield note(f"a node has {gpus} GPUs, and the profile asks for none", f"gpus_per_node: {gpus}")
        there, usable = (sum(n.count for n in some) for some in (suited, [n for n in suited if n.usable]))
        if there < resources.nodes:
            yield bad(
                f"{resources.nodes} nodes, but partition {self.name} has {there} that are large enough",
                f"nodes: {there}",
            )
        elif usable < resources.nodes:
            yield note(f"only {usable} of the {there} nodes that are large enough are up: a job waits for more")
        else:
            yield good(f"partition {self.name}: {usable} nodes that are large enough, time limit {self.limit}")


def partitions() -> list[Partition]:
    """All that the user can see; none where SLURM cannot be asked."""
    return parse(scheduler.answer("sinfo", "--noheader", "--format", FIELDS) or "")


def parse(text: str) -> list[Partition]:
    """Of sinfo's lines in FIELDS, one for each kind of nodes."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, marked, up, limit, cpus, memory, gres, count, state, size, groups, features = line.split("|", 11)
        has = frozenset(() if features == "(null)" else features.split(","))
        kind = Nodes(int(count), state, int(cpus.rstrip("+")), int(memory.rstrip("+")) / 1024, _gpus(gres), has)
        nodes = (*(found[name].nodes if name in found else ()), kind)
        most = size.partition("-")[2] or size  # `1-4`, `1-infinite`
        found[name] = Partition(
            name,
            default=marked.endswith("*"),
            up=up == "up",
            minutes=minutes_of(limit),
            limit=limit,
            nodes=nodes,
            max_nodes=int(most) if most.isdigit() else None,
            groups=() if groups == "all" else tuple(groups.split(",")),
        )
    return list(found.values())


def choose(name: str | None, among: list[Partition]) -> Partition | Check:
    """The partition of this name, of several (`gpu,long`) the first; None: the cluster's default."""
    names = [partition.name for partition in among]
    asked = name.split(",") if name is not None else [p.name for p in among if p.default]
    if not asked:
        return bad("no partition is the default here", f"partition: one of {', '.join(names)}")
    if unknown := next((one for one in asked if one not in names), None):
        return bad(f"unknown partition '{unknown}'{nearest(unknown, names)}", f"partition: one of {', '.join(names)}")
    return among[names.index(asked[0])]


def _mine(groups: tuple[str, ...]) -> bool:
    """Whether this user is in one of them, or above such things."""
    ids = set(os.getgroups())
    return os.geteuid() == 0 or any(group.gr_gid in ids for group in grp.getgrall() if group.gr_name in groups)


def _has(features: frozenset[str], constraint: str) -> bool:
    """Whether a node of these features suits `a100`, `a100&ib` or `a100|h100`. What else a constraint may be, such as
    `[rack1|rack2]` or `a*2`, speaks of several nodes or is more than is understood here, and sbatch tells."""
    if not re.fullmatch(r"[\w.&|-]+", constraint):
        return True
    return any(all(word in features for word in way.split("&")) for way in constraint.split("|"))


def _gpus(gres: str) -> int:
    """Of `gpu:a100:8(S:0-1),nvme:1`."""
    of_gpus = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres)
    return sum(int(count) for count in of_gpus)
