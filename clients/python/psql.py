"""psql: scripts, whose whole output has to be the same everywhere, and what its command line can."""

import os
import re
import subprocess
from pathlib import Path

from cases import driver, run

SCRIPTS = Path(__file__).resolve().parent.parent / "psql"
SCRIPT_SECONDS_MAX = 120


def psql(*arguments, text=None):
    """Returns what psql says, errors in between, and its exit code."""
    done = subprocess.run(
        ["psql", "-X", *arguments], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=SCRIPT_SECONDS_MAX, env={**os.environ, "PGOPTIONS": "-c client_min_messages=notice"},
    )
    # Which process it was, and as whom, differs by place.
    return re.sub(r"PID \d+|as user \"\w+\"", "...", f"{done.stdout}exit code {done.returncode}\n")


def said(*arguments, text=None):
    """The same, in tables that begin empty; fails where psql did not get to a server, or lost it."""
    psql("-c", "DELETE FROM page; DELETE FROM note; DELETE FROM draft")
    words = psql(*arguments, text=text)
    for lost in ("connection to server", "server closed the connection"):
        assert lost not in words, words
    return words


driver("psql", subprocess.run(["psql", "--version"], capture_output=True, text=True).stdout.split()[2])
for script in sorted(SCRIPTS.glob("*.sql")):
    run(script.name, lambda: said("-a", "-f", f"psql/{script.name}"))

ADDS = "INSERT INTO note (body) VALUES ('a'); SELECT count(*) FROM note WHERE body = 'a';"
ONE_LINE = ["-c", ADDS, "-c", "TABLE draft"]
run("several -c", lambda: said("-At", *ONE_LINE))
run("--single-transaction", lambda: said("-1", *ONE_LINE))
run("--single-transaction that fails", lambda: said("-1", "-v", "ON_ERROR_STOP=1", *ONE_LINE, "-c", "SELECT 1/0"))
run("from standard input", lambda: said("-At", text=f"{ADDS}\nBEGIN;\nSELECT 1;\n"))
run("--csv of ten megabytes", lambda: str(len(said("--csv", "-c", "SELECT repeat('žluť', 2500000)"))))
run("--single-line", lambda: said("-S", text="SELECT 1\nSELECT 2\n"))
