"""Addresses with passwords as people write them. What must not be shown is `s3cr3t`, `q7xz` and `k9vw`."""

import re
import shlex
from pathlib import Path

from synthetic_runs import SyntheticRun

from multimae.config import recipe

from . import Case

UNREADABLE = "can be read in several ways: write its user name and password percent-encoded"
SEEN = "http://[*]{3}@127.0.0.1"
STUDY = "python sweeps/alpha_ablation.py --dry-run --cluster mine.yaml"


def hidden(shown: str) -> str:
    """Found where `shown` is, and no piece of the secret."""
    return rf"\A(?!.*(?:s3cr|cr3t|q7xz|k9vw))(?=.*{shown})"


def sync(given: str, address: str, shown: str) -> Case:
    """`multimae sync` of one run to an address that is no use."""
    command = shlex.join(["multimae", "sync", "--uri", address])
    return Case(f"an address with {given}", command, hidden(shown), 1, a_run)


def a_run(folder: Path) -> None:
    SyntheticRun(folder / "runs", recipe("pretrain", "smoke")).start()


def mine(text: str):
    """A profile."""
    return lambda folder: (folder / "mine.yaml").write_text(text)


def profile(given: str, text: str, shown: str) -> Case:
    return Case(f"a profile with {given}", "python -m slurm.doctor mine.yaml", hidden(shown), 2, mine(text))


CASES = [
    sync("a / in its password", "http://me:s3cr3t/q7xz@127.0.0.1:1", f"http://[*]{{3}}, {UNREADABLE}"),
    sync("@ and / in its password", "https://me:s3cr3t@q7xz/k9vw@127.0.0.1:1/x", f"https://[*]{{3}}, {UNREADABLE}"),
    sync("a # in its password", "http://me:s3cr3t#q7xz@127.0.0.1:1", UNREADABLE),
    sync("a ? in its password", "http://me:s3cr3t?q7xz@127.0.0.1:1", UNREADABLE),
    sync("a ] in its password", "http://me:s3cr3t]q7xz@127.0.0.1:1", UNREADABLE),
    sync("a backslash in its password", "http://me:s3cr3t\\q7xz@127.0.0.1:1", UNREADABLE),
    sync("no host", "http://me:s3cr3t@", UNREADABLE),
    sync("a bracket that stays open", "http://[s3cr3t:1/q7xz", UNREADABLE),
    sync("a port that is a word", "http://127.0.0.1:s3cr3t/q7xz", UNREADABLE),
    sync("a port that is too large", "http://me:s3cr3t@127.0.0.1:70000", UNREADABLE),
    sync("a colon, a space and an @ in its password", "http://me:s3cr3t: q7xz@k9vw@127.0.0.1:1", f"{SEEN}:1 does"),
    sync("an encoded password", "http://me:s3cr3t%2Fq7xz%40k9vw@127.0.0.1:1/x", f"{SEEN}:1/x does not answer"),
    sync("a token for a user", "http://s3cr3t@127.0.0.1:1", f"{SEEN}:1 does not answer"),
    sync("a token in its query", "http://127.0.0.1:1/x?api_key=s3cr3t", "127.0.0.1:1/x[?][*]{3} does not answer"),
    sync("a fragment", "http://127.0.0.1:1/x#s3cr3t", "127.0.0.1:1/x#[*]{3} does not answer"),
    sync("no scheme", "me:s3cr3t@127.0.0.1/q7xz", "not sent: .*[*]{3} does not answer"),
    sync("one slash", "postgresql:/me:s3cr3t@127.0.0.1/q7xz", "not sent: .*[*]{3} does not answer"),
    sync("an unknown scheme", "ftpx://me:s3cr3t@127.0.0.1/x", "ftpx://[*]{3}@127.0.0.1/x does not answer"),
    sync("a driver that is not there", "oracle://me:s3cr3t/q7xz@127.0.0.1/x", "oracle://[*]{3} does .*percent-encoded"),
    sync("a secret's scope for a port", "databricks://s3cr3t:q7xz", "databricks://[*]{3} does not answer"),
    Case("an option that is misspelt", "multimae sync --url 'http://me:s3cr3t/ q7xz@h'", hidden("unrecognized")),
    Case(
        "an address where = is forgotten",
        "multimae run smoke/pretrain --runtime 'tracking_uri http://me:s3cr3t/ q7xz@h'",
        hidden("tracking_uri http://[*]{3}"),
    ),
    profile("a list for an address", "tracking_uri: ['http://me:s3cr3t@h']", "tracking_uri: "),
    profile("a text for its variables", "environment: TOKEN=s3cr3t", "environment: "),
    profile("a list for a variable", "environment: {TOKEN: [s3cr3t]}", "environment.TOKEN: "),
    profile("an address that is no YAML", "tracking_uri: h://me:s3cr3t: q7xz@h", "mine.yaml is not valid YAML: line 1"),
    profile("a password that begins with *", "environment: {TOKEN: *s3cr3t}", "mine.yaml is not valid YAML: line 1"),
    profile("a password that begins with !", "environment: {TOKEN: !s3cr3t }", "mine.yaml is not valid YAML: line 1"),
    profile("a text for its shell lines", "setup: export TOKEN=s3cr3t", "setup: "),
    Case(
        "a profile with secrets, shown as scripts",
        STUDY,
        hidden(re.escape("export TOKEN='***'") + ".*" + re.escape("export MLFLOW_TRACKING_URI='http://***@h'")),
        0,
        mine("{setup: [export A=s3cr3t], environment: {TOKEN: s3cr3t q7xz}, tracking_uri: 'http://me:s3cr3t@h'}"),
    ),
]
