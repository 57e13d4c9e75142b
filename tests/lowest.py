"""The lowest versions that pyproject.toml admits, as constraints for pip; no package is needed to print them.

    python -m pip install -c <(python tests/lowest.py) -e '.[test]'

CI runs the default tests with them. What the dependencies depend on in turn is the newest that fits.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[\w+\])?>=(?P<floor>[\d.]+)(,.*)?")


def lowest(project: Path = PROJECT) -> list[str]:
    """`name==version` of every dependency, those of the extras and of the build too.

    Raises ValueError where one has no lower bound: then nobody knows what was tested.
    """
    file = tomllib.loads(project.read_text())
    required = file["build-system"]["requires"] + file["project"]["dependencies"]
    for extra in file["project"]["optional-dependencies"].values():
        required += extra
    return [_floor(text, project) for text in dict.fromkeys(required)]


def _floor(text: str, project: Path) -> str:
    if match := REQUIREMENT.fullmatch(text):
        return f"{match['name']}=={match['floor']}"
    raise ValueError(f"{project}: '{text}' needs a lower bound that was tested, like 'torch>=2.11.0'")


if __name__ == "__main__":
    print("\n".join(lowest()))
