"""Which way imports point (DESIGN.md), and that planning a study imports nothing heavy."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "deepspeed", "mlflow", "optuna", "pandas", "torchvision", "timm")

# What a room may import, besides itself. A room is a module or package of multimae, or one of the other packages.
# Planning stands on `data.listing` and `data.subsets`, which know a folder of images without torch.
BASE = {"config", "files", "modalities", "redact", "seeds", "shards", "units"}
MODEL = {"masking", "model", "losses", "patches", "weights"}
LIBRARY = {
    "modalities": set(),
    "files": set(),
    "redact": set(),
    "seeds": set(),
    "shards": set(),
    "units": set(),
    "speed": set(),
    "precision": set(),
    "config": {"modalities"},
    "patches": BASE,
    "masking": BASE,
    "losses": BASE | {"masking", "patches"},
    "model": BASE | {"losses", "masking", "patches"},
    "weights": BASE | MODEL,
    "data": BASE,
    "metrics": BASE,
    "pictures": BASE,
    "labelling": BASE | {"data", "weights"},
    "tasks": BASE | MODEL | {"data", "labelling", "metrics", "pictures"},
    "record": BASE,
    "engine": BASE | {"precision", "record", "speed"},
    "run": BASE | {"data", "engine", "record", "tasks"},
    "tracking": BASE | {"record"},
    "export": BASE | MODEL | {"data", "precision", "record", "tasks", "tracking"},
    "study": BASE | {"data", "record", "run"},
    "search": BASE | {"record", "study"},
    "label": BASE | {"data", "labelling", "record", "study", "tracking"},
    "bench": BASE | MODEL | {"data", "precision", "speed"},
    "cli": BASE | {"bench", "data", "export", "record", "run", "tracking"},
    "__main__": {"cli"},
}
MULTIMAE = {f"multimae.{room}" for room in LIBRARY}
MAY_IMPORT = {f"multimae.{room}": {f"multimae.{r}" for r in others} for room, others in LIBRARY.items()} | {
    "slurm": MULTIMAE - {"multimae.bench", "multimae.cli", "multimae.tasks"},
    "analysis": MULTIMAE | {"slurm"},
    "sweeps": MULTIMAE | {"slurm", "analysis"},
}
PACKAGES = ("multimae", "slurm", "analysis", "sweeps")  # each may start what stands before it


def imports(file: Path) -> set[str]:
    """Absolute names of what a file imports, anywhere in it."""
    package = ".".join(file.relative_to(ROOT).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("multimae.") else name.split(".")[0]


FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_the_right_way(file):
    here = room(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    targets = {name for name in imports(file) if name.split(".")[0] in PACKAGES}
    wrong = {name for name in targets if room(name) not in MAY_IMPORT.get(here, set()) | {here}}
    allowed = sorted(MAY_IMPORT.get(here, set()))
    assert not wrong, f"{here} may import {allowed} only (DESIGN.md), but imports {sorted(wrong)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_processes_are_started_downwards_only(file):
    """`python -m sweeps.x` within multimae would be an import upwards that no import shows."""
    own = PACKAGES.index(file.relative_to(ROOT).parts[0])
    texts = [n.value for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Constant)]
    above = {t for t in texts if isinstance(t, str) and re.fullmatch(r"(\w+)((\.\w+)+|/\w+\.py)", t)}
    assert not {text for text in above if re.split(r"[./]", text)[0] in PACKAGES[own + 1 :]}


def test_no_two_classes_share_a_name_across_rooms():
    places: dict[str, set[str]] = {}
    for file in FILES:
        here = room(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, set()).add(here)
    assert not {name: rooms for name, rooms in places.items() if len(rooms) > 1}


def modules_after(command: str) -> set[str]:
    """What is imported once `command` (Python) has run in a fresh interpreter, as a script would be."""
    code = (
        "import contextlib, json, runpy, sys\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):\n"
        f"    {command}\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("options", ["--help", "--dry-run", "--status", "--cancel", "--cluster site --dry-run"])
def test_planning_imports_nothing_heavy(options, tmp_path):
    argv = ["alpha_ablation.py", *options.split(), "--runs", str(tmp_path)]
    script = str(ROOT / "sweeps/alpha_ablation.py")
    seen = modules_after(f"sys.argv = {argv!r}; runpy.run_path({script!r}, run_name='__main__')")
    assert "multimae.study.planning" in seen
    assert not seen.intersection(HEAVY)


@pytest.mark.parametrize(
    "module", ["multimae.cli", "multimae.tracking", "multimae.study.local", "multimae.label", "sweeps.alpha_ablation"]
)
def test_the_launchers_side_imports_nothing_heavy(module):
    assert not modules_after(f"import {module}").intersection(HEAVY)


@pytest.mark.parametrize("module", ["multimae.record.state", "multimae.study.cost", "analysis.tables"])
def test_reading_runs_imports_no_torch(module):
    assert not modules_after(f"import {module}").intersection({"torch", "deepspeed", "mlflow"})
