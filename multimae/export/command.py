"""The command `multimae model`."""

import argparse
import re
from pathlib import Path

from ..config import ConfigError
from ..config.settings import shown
from ..record.folder import RunFolder
from ..record.sharing import share
from ..redact import parse_arguments, public, redact, redacting
from ..tracking import default_uri
from ..tracking.command import add_store_arguments, check_begun

NAME = re.compile(r"[\w.-]+")  # MLflow takes no / and no :
EXAMPLES = """\
examples:
  multimae model SIGNATURE                     # of the run, in MLflow; prints the lines that load it
  multimae model SIGNATURE --register NAME     # and as a version of the registered model NAME
  multimae model SIGNATURE --out DIR           # as a folder, without MLflow's store

It loads where `pip install` has put the wheel of this project: images in, predictions out
(`python -c "from multimae.export.predictor import Predictor; help(Predictor)"` says which).
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="multimae model",
        description="The final weights of a run as an MLflow model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("signature", help="a run that is done: a pre-training or a transfer")
    add_store_arguments(parser)
    parser.add_argument("--register", metavar="NAME", help="as a version of this registered model, too")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write it as a folder, and tell MLflow nothing")
    args, given = parse_arguments(parser, argv)
    if args.out and (args.uri or args.register):
        parser.error("--out writes a folder without MLflow's store, and --uri and --register are about that: give one")
    if args.register and not NAME.fullmatch(args.register):
        parser.error(f"--register: expected a name of letters, digits, _ . -, found {shown(args.register)}")
    if not args.runs.is_dir():
        parser.error(f"--runs: there is no folder {args.runs}")
    check_begun(parser, args.runs, args.signature)
    folder = RunFolder.of(args.runs, args.signature)
    uri = args.uri or default_uri(args.runs)
    with redacting(uri, *given):
        try:
            return (
                _to_folder(folder, args.out) if args.out else _to_mlflow(args.runs, args.signature, uri, args.register)
            )
        except ConfigError as error:
            parser.exit(2, f"multimae model: {redact(str(error), uri, *given)}\n")


def _to_folder(folder: RunFolder, out: Path) -> int:
    from .models import save

    save(folder, out)
    print(f"model of run {folder.signature} in {out}; to load it:\n{loading(str(out.absolute()))}")
    return 0


def _to_mlflow(runs: Path, signature: str, uri: str, name: str | None) -> int:
    from .models import log, register

    share(runs)
    model = log(runs, signature, uri)
    news = "is" if model.new else "was already"
    print(f"model {model.model_id} of run {signature} {news} in MLflow at {public(uri)}, run {model.run_id}")
    address = model.address
    if name:
        version = register(runs, model, name, {"signature": signature})
        address = f"models:/{name}/{version}"
        print(f"registered as version {version} of {name}")
    print(f"To load it:\n{loading(address, uri)}")
    return 0


def loading(address: str, uri: str | None = None) -> str:
    """The lines that load a model. An address with a secret is left to the environment."""
    lines = ["import mlflow"]
    if uri:
        known = public(uri) == uri
        lines.append(
            f'mlflow.set_tracking_uri("{uri}")' if known else f"# with MLFLOW_TRACKING_URI set to {public(uri)}"
        )
    return "\n".join(f"  {line}" for line in [*lines, f'model = mlflow.pyfunc.load_model("{address}")'])
