"""Whether the tables of a database are those that the installed MLflow expects. A process of its own: it imports all of
MLflow.

MLflow refuses a database of an older version only sometimes; else it changes it at once, where nobody has saved it and
older clients may still be at work."""

import json
import os
from pathlib import Path

OLDER, NEWER, FITS = "older", "newer", "fits"


def main() -> None:
    import mlflow
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from sqlalchemy import create_engine

    known = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    with create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"]).connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    heads, all_known = known.get_heads(), {script.revision for script in known.walk_revisions()}
    state = FITS if found is None or found in heads else OLDER if found in all_known else NEWER
    print(json.dumps({"state": state, "mlflow": mlflow.__version__}))


if __name__ == "__main__":
    main()
