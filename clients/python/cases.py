"""How are the cases of a driver run, and told to clients/run.py?

One line of JSON for the driver, then one for each case: {"case", "outcome", "detail"}, and "seen" where what a case
saw is to be compared word for word.
"""

import json
import os
import time
import traceback

HOST, PORT = os.environ["PGHOST"], int(os.environ["PGPORT"])
USER, PASSWORD = os.environ["PGUSER"], os.environ["PGPASSWORD"]
DATABASE = os.environ["PGDATABASE"]
URL = f"postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"

# Ten million bytes that do not compress to nothing.
LARGE_BYTES = bytes(i * i % 251 for i in range(10_000)) * 1_000
LARGE_TEXT = "žluťoučký 🐎 " * 700_000

WAIT_SECONDS_MAX = 30

_cases = []


def case(function):
    """Registers a case, which passes unless it raises; what it returns is what it saw."""
    _cases.append(function)
    return function


def driver(name, version):
    _tell(driver=name, version=version)


def run_all(before):
    """Runs every case, each after `before`."""
    for function in _cases:
        run(function.__name__, lambda: (before(), function())[1])


def run(name, body):
    """Runs one case and tells how it went."""
    try:
        seen = body()
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        tell(name, "failed", f"{type(error).__name__}: {error} ({os.path.basename(at.filename)}:{at.lineno})")
    else:
        tell(name, "passed", seen=seen)


def tell(name, outcome, detail="", seen=None):
    _tell(case=name, outcome=outcome, detail=detail, **({} if seen is None else {"seen": seen}))


def _tell(**line):
    print(json.dumps(line), flush=True)


def fails(code, body, code_of):
    """Checks that `body` raises what has this SQLSTATE, and returns the error."""
    try:
        body()
    except Exception as error:
        assert code_of(error) == code, f"{code_of(error)} rather than {code}: {error}"
        return error
    raise AssertionError(f"no error where {code} was expected")


def until(fact):
    """Asks until the answer is true."""
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not fact():
        assert time.monotonic() < end, f"not within {WAIT_SECONDS_MAX} s"
