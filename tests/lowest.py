"""The lowest versions that pyproject.toml admits, as constraints for pip; no package is needed to print them.

    python -m pip install -c <(python tests/lowest.py) -e '.[test]'

CI runs the default tests with them. What the dependencies depend on in turn is the newest that fits.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)>=(?P<floor>[\d.]+)(,.*)?")


def lowest(project: Path = PROJECT) -> list[str]:
    """`name==version` of every dependency, also of the extras and of the build. Raises ValueError where one has no floor."""
    file = tomllib.loads(project.read_text())
    extras = file["project"]["optional-dependencies"].values()
    texts = [*file["build-system"]["requires"], *file["project"]["dependencies"], *(t for extra in extras for t in extra)]
    constraints = {}
    for text in texts:
        match = REQUIREMENT.fullmatch(text.replace(" ", ""))
        if not match:
            raise ValueError(f"{project}: '{text}' needs a lower bound that was tested, like 'torch>=2.11'")
        constraints[match["name"]] = f"{match['name']}=={match['floor']}"
    return list(constraints.values())


if __name__ == "__main__":
    print("\n".join(lowest()))
