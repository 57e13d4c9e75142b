"""The one place that decides what is shown of an address (`tracking_uri`), which may hold a password. Imports no torch.

`public` is what a person, a log or a file may see of it; `redact` cleans a text that somebody else has written, such as
the message of an exception. An address is shown in part only where it can be read in one way: people write passwords
with `/`, `@` and `#` in them as they are, and then no parser knows where they end. Of such an address the scheme is
left.
"""

import argparse
import base64
import contextlib
import ipaddress
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlsplit

HIDDEN = "***"
PIECE = 4  # characters of a secret that must not stand together; fewer are in any text
FIX = "write its user name and password percent-encoded: %2F for /, %40 for @, %23 for #, %3A for :"

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
HOST = re.compile(r"\w(?:[\w.-]*\w)?\.?")
PATH = re.compile(r"[A-Za-z0-9_.~/-]*")  # one that is shown
# A file of this machine: SQLite's, MLflow's file store's, or a plain path. All of it may be shown.
FILE = re.compile(r"(?:sqlite|file):(?!//[^/])|/(?!/)|\.{1,2}[\\/]|~(?:[\\/]|$)|[A-Za-z]:[\\/](?!/)", re.IGNORECASE)
NAME = re.compile(r"[\w.+\\/-]*")  # such as `databricks`, or a relative path
# An address in a text: to its last @, whatever stands before it, then to the end of a word.
IN_TEXT = re.compile(r"[A-Za-z0-9+.-]{0,30}://(?:\S*@)?[^\s\"'<>`]*")
AFTER = tuple(".,;:)}")  # belongs to the sentence
# A word of a shell, its quotes closed or not.
ASSIGNED = re.compile(r"\s*((?:export\s+)?[A-Za-z_]\w*)(?:\[[^]]*\])?\+?=")
COMMAND = re.compile(r"\s*([\w./-]+)(?:\s|$)")
# Of a line that may hold a secret.
TELLING = re.compile(r"[='\"`<]|\$\(|pass|token|secret|key|auth|cred", re.IGNORECASE)


def parse(address: str) -> SplitResult | None:
    """Scheme, user, host, port, ... of an address with a scheme; None where it could be read in another way, too."""
    if not SCHEME.match(address) or not address.isprintable() or "\\" in address:
        return None
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 (raises for one that is no number)
        host = parts.hostname or ""
        if ":" in host:
            ipaddress.IPv6Address(host)
    except ValueError:
        return None
    # An @ behind the authority: it belongs to the path, or a password with a / in it has ended the authority early.
    certain = "@" not in parts.path + parts.query + parts.fragment
    return parts if certain and (not parts.netloc or ":" in host or HOST.fullmatch(host)) else None


def public(address: str) -> str:
    """What may be shown of an address: no user, no password, no query; of what cannot be read, the scheme."""
    address = address.strip()
    if FILE.match(address) and address.isprintable():
        path, question, _ = address.partition("?")
        return path + (question and f"?{HIDDEN}")
    if NAME.fullmatch(address):
        return address
    if parts := parse(address):
        user = f"{HIDDEN}@" if "@" in parts.netloc else ""
        path = parts.path if PATH.fullmatch(parts.path) else f"/{HIDDEN}"
        rest = (f"?{HIDDEN}" if parts.query else "") + (f"#{HIDDEN}" if parts.fragment else "")
        return f"{parts.scheme}://{user}{host_port(parts)}{path}{rest}"
    scheme = SCHEME.match(address)
    return f"{scheme[0] if scheme else ''}{HIDDEN}"


def host_port(parts: SplitResult) -> str:
    """`host:port` as it stands in an address."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"


def redact(text: str, *addresses: str | None) -> str:
    """`text` without what is hidden of these addresses, whole or in pieces, and of any other that stands in it."""
    known = {address.strip(): public(address) for address in addresses if address and address.strip()}
    for address, visible in known.items():
        # As what is shown of it stands in many a text already, that is left as it is.
        parts = re.split(f"({re.escape(address)}|{re.escape(visible)})", text)
        cover = _cover(_hidden(address, visible))
        text = "".join(visible if part in (address, visible) else cover(part) for part in parts)
    return IN_TEXT.sub(_in_text, text)


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str]]:
    """(what argparse makes of a command line, the addresses in its words); argparse repeats what it cannot use."""
    words = sys.argv[1:] if argv is None else argv
    addresses = [word[found.start() :] for word in words if (found := SCHEME.search(word))]
    with redacting(*addresses):
        return parser.parse_args(words), addresses


def without_values(line: str) -> str:
    """A shell line as it may be shown: `export TOKEN=***`, `curl ***`; whole where nothing in it can be a secret."""
    if assigned := ASSIGNED.match(line):
        return f"{assigned[1]}={HIDDEN}"
    if not TELLING.search(line):
        return redact(line)
    whole = line.count("'") % 2 == 0 and line.count('"') % 2 == 0  # else it may go on from the line before
    return f"{found[1]} {HIDDEN}" if whole and (found := COMMAND.match(line)) else HIDDEN


def _in_text(found: re.Match) -> str:
    address = found[0]
    while address.endswith(AFTER) or (address.endswith("]") and address.count("]") > address.count("[")):
        address = address[:-1]
    return public(address) + found[0][len(address) :]


def _hidden(address: str, visible: str) -> list[str]:
    """The parts of an address that are not shown."""
    if visible == address:
        return []
    parts = parse(address)
    if parts is None:
        scheme = SCHEME.match(address)
        return [address[scheme.end() if scheme else 0 :]]
    user, path = parts.netloc.rpartition("@")[0], parts.path
    return [user, *user.split(":", 1), "" if PATH.fullmatch(path) else path, f"{parts.query}#{parts.fragment}"]


def _cover(secrets: Iterable[str]) -> Callable[[str], str]:
    """What hides every piece of these secrets, however a message has encoded or quoted them."""
    forms = set()
    for secret in secrets:
        for form in (secret, unquote(secret), unquote_plus(secret)):
            forms |= {form, quote(form), quote(form, safe=""), repr(form)[1:-1], json.dumps(form)[1:-1]}
            forms.add(base64.b64encode(form.encode(errors="surrogateescape")).decode())  # as HTTP sends it
    pieces = {form[i : i + PIECE] for form in forms for i in range(len(form) - PIECE + 1)}
    pieces = {piece for piece in pieces if piece.strip()}
    short = {form for form in forms if 1 < len(form) < PIECE}
    if not pieces and not short:
        return lambda text: text
    patterns = [*map(re.escape, sorted(pieces)), *(rf"(?<!\w){re.escape(form)}(?!\w)" for form in sorted(short))]
    find = re.compile(f"(?=({'|'.join(patterns)}))", re.IGNORECASE)  # looks ahead only: pieces overlap

    def cover(text: str) -> str:
        kept: list[str] = []
        end = 0  # of what is hidden
        for found in find.finditer(text):
            start, stop = found.span(1)
            if start > end or not kept:
                kept += [text[end:start], HIDDEN]
            end = stop
        return "".join([*kept, text[end:]])

    return cover


# ---- what a process prints


class Redacted:
    """A stream that passes lines on, redacted. A line that is not ended yet waits: it may hold half a secret."""

    def __init__(self, stream: TextIO, *addresses: str | None):
        self._stream, self._addresses, self._line = stream, addresses, ""

    def write(self, text: str) -> int:
        *lines, self._line = re.split(r"(?<=[\n\r])", self._line + text)
        if lines:
            self._stream.write(redact("".join(lines), *self._addresses))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def end(self) -> None:
        """Pass on what is left."""
        self._stream.write(redact(self._line, *self._addresses))
        self._line = ""
        self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def redacting(*addresses: str | None) -> Iterator[None]:
    """Within, all that Python prints is redacted: logs of libraries, warnings, and the traceback of what fails, which
    ends the process as it would otherwise."""
    streams = Redacted(sys.stdout, *addresses), Redacted(sys.stderr, *addresses)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
        finally:
            for stream in streams:
                stream.end()
