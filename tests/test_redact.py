"""What is shown of an address: no piece of a password, however it is written."""

import io
import logging
import random
import shlex
import sys
import time
from urllib.parse import quote

import pytest

from multimae.redact import PIECE, Redacted, parse, public, redact, redacting, without_values

WHERE = ("{}@h", "u:{}@h/d", "{}:x@h:1/d", "u:x{}@[::1]/d", "h/d?token={}", "h?a=b&password={}", "h/d#{}")
UGLY = "s3cr3t/@#?%:wörd"
SHOWN = {  # of addresses that can be read in one way
    "http://127.0.0.1:5000": "http://127.0.0.1:5000",
    "https://mlflow.example.org/lab/a": "https://mlflow.example.org/lab/a",
    "https://me:hunter2@host/mlflow": "https://***@host/mlflow",
    "https://me:hunter2@bücher.example.": "https://***@bücher.example.",
    "https://hunter2@host": "https://***@host",  # a token
    "https://:hunter2@host": "https://***@host",
    "https://hunter2:x-oauth-basic@host": "https://***@host",
    "http://me:hun@ter2@host:80/a": "http://***@host:80/a",
    "http://me:hun:ter2@host": "http://***@host",
    "http://me:hun%2Fter%402@host": "http://***@host",
    "http://me:hun ter2@host": "http://***@host",
    "http://me:hun[ter2]@host": "http://***",  # brackets are of IPv6
    "http://me:hünter2@host": "http://***@host",
    "https://host/x?token=hunter2": "https://host/x?***",
    "https://host?api_key=hunter2#hunter3": "https://host?***#***",
    "https://host/a%20b;password=hunter2": "https://host/***",
    "postgresql+psycopg2://me:hunter2@db:5432/m?sslpassword=hunter3": "postgresql+psycopg2://***@db:5432/m?***",
    "postgresql:///mlflow?host=/run/pg&password=hunter2": "postgresql:///mlflow?***",
    "mysql://me:hunter2@[fd00::2]:3306/m": "mysql://***@[fd00::2]:3306/m",
    "mysql://me:hunter2@[fe80::1%eth0]/m": "mysql://***@[fe80::1%eth0]/m",
    "databricks": "databricks",
    "databricks://profile": "databricks://profile",
}
UNCERTAIN = {
    "postgresql+psycopg2://user:p@ss/word@host/db": "postgresql+psycopg2://***",
    "http://user:p/ss@host": "http://***",
    "http://user:p#ss@host": "http://***",
    "http://user:p?ss@host": "http://***",
    "http://user:p\\ss@host": "http://***",
    "http://user:p]ss@host": "http://***",
    "http://[::1:5000/x": "http://***",
    "http://[hunter2]/x": "http://***",
    "http://host:hunter2/x": "http://***",
    "http://host:99999": "http://***",
    "http://me:hunter2@": "http://***",
    "sqlite+pysqlcipher://:hunter2@/file.db": "sqlite+pysqlcipher://***",
    "http://ho st/x": "http://***",
    "http://me:hun\nter2@host": "http://***",
    "http://me:hun\x00ter2@host": "http://***",
    "databricks://profile:scope": "databricks://***",
    "postgresql://me:hunter2@h1:5432,h2:5432/db": "postgresql://***",
    "mysql://me:hunter2@tcp(host:1)/db": "mysql://***",
    "https://host/me@example.org": "https://***",
    "user:hunter2@host/db": "***",
    "//user:hunter2@host/db": "***",
    "postgresql:/user:hunter2@host/db": "***",
    "jdbc:postgresql://host/db?password=hunter2": "***",
    "host=db password=hunter2": "***",
    "Endpoint=sb://host;SharedAccessKey=hunter2": "***",
    "my_sql://me:hunter2@host": "***",
}
FILES = [
    "sqlite:////data/a@b/mlflow.db", "sqlite:///mlflow.db", "sqlite://", "file:///data/me@home/mlruns", "file:/data/x",
    "/data/me@2024:a/mlruns", "./mlruns", "../a@b", "mlruns", "runs/mlruns", "C:\\Users\\me\\mlruns", "D:/x@y", "~/x@y",
]  # fmt: skip


def pieces(secret: str) -> set[str]:
    return {secret[i : i + PIECE] for i in range(len(secret) - PIECE + 1)}


@pytest.mark.parametrize("address", [*SHOWN, *UNCERTAIN])
def test_what_is_shown_of_an_address(address):
    expected = (SHOWN | UNCERTAIN)[address]
    assert public(address) == public(f" {address} ") == public(expected) == expected
    assert "hunt" not in expected and "ter2" not in expected


@pytest.mark.parametrize("address", FILES)
def test_a_file_is_shown_whole(address):
    assert public(address) == redact(address, address) == address


def test_a_files_options_are_hidden():
    assert public("sqlite:///m.db?key=hunter2") == "sqlite:///m.db?***"


@pytest.mark.parametrize("address", [a for a in SHOWN if a.startswith(("postgresql", "mysql", "sqlite"))])
def test_a_databases_host_is_the_one_that_sqlalchemy_finds(address):
    from sqlalchemy.engine import make_url

    ours, theirs = parse(address), make_url(address)
    assert (ours.hostname or None, ours.port) == (theirs.host, theirs.port)


def test_no_piece_of_a_random_password_is_shown():
    """Of 500 passwords of the characters that matter, and the messages of those who could not read the address."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    random.seed(0)
    letters = "abcdefgXYZ0123456789" + 2 * "/@#?%:[]\\&=+ '\";,.ö✓"
    for _ in range(500):
        secret = "".join(random.choices(letters, k=random.randint(8, 16)))
        scheme = random.choice(["http", "https", "postgresql+psycopg2", "mysql", "s3"])
        where = random.choice(WHERE)
        written = random.choice([secret, quote(secret), quote(secret, safe="")])
        address = f"{scheme}://{where.format(written)}"
        message = f"cannot reach {address}: {address!r} ({quote(written)}): '{secret[3:]}' is no port"
        try:
            url = make_url(address)
            read = f"no host {url.host!r}, database {url.database!r}, {url.password!r}"
        except (ArgumentError, ValueError) as error:
            read = str(error)
        for text in (public(address), redact(message, address), redact(read, address)):
            assert not [piece for piece in pieces(secret) if piece in text], (address, text)


def test_a_message_keeps_what_is_no_secret():
    address = "postgresql://me:hunter2@db/mlflow"
    assert redact(f"no answer of {address} (db): for user me, 'HUNTER2'", address) == (
        "no answer of postgresql://***@db/mlflow (db): for user ***, '***'"
    )
    assert redact("all is well", address, None, "") == "all is well"


def test_addresses_that_nobody_named_are_found_in_a_message():
    text = "from ftp://me:hunter2@host/x, (see https://example.org/e/20). `http://me:hun'ter2@h` [http://[::1]:1/x]"
    assert redact(text) == "from ftp://***@host/x, (see https://example.org/e/20). `http://***@h` [http://[::1]:1/x]"


def test_a_long_line_is_redacted_at_once():
    began = time.monotonic()
    for text in ("x" * 300_000 + "://me:hunter2@h", "://" * 50_000, "x://a@" * 50_000, "@" * 300_000):
        assert "hunter2" not in redact(text, f"http://me:{UGLY}@host")
    assert time.monotonic() - began < 5


def test_what_a_shell_line_assigns_is_hidden():
    assert without_values("export A=hunter2 B='hun ter2'; C=\"hun;ter2\" run --x=1") == "export A=***"
    for line in ("A+=hunter2", "A[0]=hunter2", "A=(hunter2 hunter3)", "A=$'a\\'hunter2 x'", "A=${X:-hunter2 y}"):
        assert without_values(line) == "A=***"
    assert without_values('hunter2 hunter3"') == "***"  # of a line that an open quote began
    assert without_values("curl -H 'Authorization: Bearer hunter2' host") == "curl ***"
    assert without_values("login --password hunter2") == "login ***"
    quoted = shlex.quote("hun'ter2 \" hunter3")
    values = (quoted, "hun\\ ter2", '"hun\\"ter2"', "hun'ter2 x", '"$(cat hunter2)"', "$(cat hunter2)", "`cat hunter2`")
    for value in values:
        assert without_values(f"export A={value}") == "export A=***"
    assert without_values("module load cuda/12.8") == "module load cuda/12.8"
    assert without_values("source $HOME/env.sh && module list") == "source $HOME/env.sh && module list"
    assert without_values("python --env TOKEN=hunter2 http://me:hunter2@h") == "python ***"
    assert without_values("python http://me:hunter2@h") == "python http://***@h"


def test_all_that_a_process_prints_is_redacted(capsys):
    address = f"http://me:{UGLY}@host"
    with pytest.raises(SystemExit) as ended, redacting(address):
        print(f"half of {address[:20]}", end="")
        print(address[20:], "is out")
        logging.getLogger("someone").warning("at %s", UGLY)
        raise OSError(f"{address} is no address")
    printed = "".join(capsys.readouterr())
    assert ended.value.code == 1 and "OSError: http://*** is no address" in printed and "is out" in printed
    assert not [piece for piece in pieces(UGLY) if piece in printed]
    assert not isinstance(sys.stdout, Redacted)


def test_a_redacted_stream_is_otherwise_the_stream():
    below = io.StringIO()
    stream = Redacted(below, None)
    stream.writelines(["a\n", "b"])
    assert below.getvalue() == "a\n" and not stream.isatty()
    stream.end()
    assert below.getvalue() == "a\nb"
