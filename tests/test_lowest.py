"""The constraints with which CI tests the lower end of the versions, and those that make an environment again."""

import re
import tomllib

import pytest
from lowest import PROJECT, lowest
from packaging.requirements import Requirement

PROJECT_TEXT = """\
[build-system]
requires = ["setuptools>=77.0.3"]
[project]
dependencies = ["torch>=2.11.0,<2.16", {}]
[project.optional-dependencies]
test = ["pytest>=8.0.0", "setuptools>=77.0.3"]
"""


def test_every_dependency_is_held_at_its_floor(tmp_path):
    file = tmp_path / "pyproject.toml"
    file.write_text(PROJECT_TEXT.format('"py-yaml>=6.0"'))
    assert lowest(file) == ["setuptools==77.0.3", "torch==2.11.0", "py-yaml==6.0", "pytest==8.0.0"]
    assert all(line in lowest(PROJECT) for line in ("torch==2.11.0", "setuptools==77.0.3"))


@pytest.mark.parametrize("text", ["numpy", "numpy<3", "numpy==2.0", "numpy>2", "numpy~=2.0", "numpy>=2 ; extra == 'x'"])
def test_a_dependency_without_a_floor_is_named(tmp_path, text):
    file = tmp_path / "pyproject.toml"
    file.write_text(PROJECT_TEXT.format(f'"{text}"'))
    with pytest.raises(ValueError, match="needs a lower bound that was tested"):
        lowest(file)


def test_the_pinned_environment_has_every_dependency_within_its_bounds():
    lines = (PROJECT.parent / "constraints.txt").read_text().splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.!]+)", line).groups() for line in lines if not line.startswith("#"))
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["test"], *extras["lint"]]:
        wanted = Requirement(text)
        pin = next((pin for name, pin in pins.items() if _plain(name) == _plain(wanted.name)), None)
        assert pin, f"constraints.txt lacks {wanted.name}; its head says how it is renewed"
        assert wanted.specifier.contains(pin), f"constraints.txt has {wanted.name} {pin}, but pyproject.toml {text}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
