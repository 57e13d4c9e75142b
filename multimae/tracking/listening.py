"""Whether a server that was started answers, and not a stranger's at the same port."""

import contextlib
import http.client
import subprocess
import urllib.request
from urllib.parse import urlsplit

import psutil

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what http_proxy names cannot see this machine


def answers(process: subprocess.Popen, health: str) -> bool:
    """Whether something answers at the address `health`, and it is `process` or one that it started that listens there.
    On a machine that others use someone else's server may have taken the port meanwhile, and answers as well."""
    try:
        DIRECT.open(health, timeout=5).close()
        root = psutil.Process(process.pid)
        family = [root, *root.children(recursive=True)]
    except (OSError, http.client.HTTPException, psutil.Error):
        return False
    return any(_listens(one, urlsplit(health).port) for one in family)


def _listens(process: psutil.Process, port: int | None) -> bool:
    with contextlib.suppress(psutil.Error):  # it has ended meanwhile
        found = process.net_connections("tcp")
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)
    return False
