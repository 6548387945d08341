"""The suites that come with drivers, test by test.

    suite.py psycopg2|sqlalchemy FOLDER

FOLDER holds what clients/setup unpacked.
"""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest

from cases import DATABASE, HOST, PASSWORD, PORT, USER, driver, tell

# What is in the default schema is compared: it has to be theirs alone.
URL = f"postgresql+psycopg://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}?options=-csearch_path%3Dsuite"


PACKAGES = {"psycopg2": "psycopg2-binary", "sqlalchemy": "SQLAlchemy"}


# What SQLAlchemy asks of a dialect's package that runs its suite.
FILES = {
    "setup.cfg": "[sqla_testing]\nrequirement_cls = requirements:Requirements\nprofile_file = profiles.txt\n",
    "requirements.py": "from sqlalchemy.testing.requirements import SuiteRequirements\n\n\n"
    "class Requirements(SuiteRequirements):\n    pass\n",
    "conftest.py": "import pytest\n\npytest.register_assert_rewrite('sqlalchemy.testing.assertions')\n\n"
    "from sqlalchemy.testing.plugin.pytestplugin import *\n",
    "test_suite.py": "from sqlalchemy.testing.suite import *\n",
}


class Teller:
    """Tells how each test went."""

    def __init__(self):
        self.outcomes = {}

    def pytest_runtest_logreport(self, report):
        before, _ = self.outcomes.get(report.nodeid, ("passed", ""))
        if before == "passed" and (report.when == "call" or report.outcome != "passed"):
            detail = str(report.longrepr).strip().splitlines()[-1] if report.failed else ""
            self.outcomes[report.nodeid] = (report.outcome, detail)

    def pytest_sessionfinish(self):
        for test, (outcome, detail) in self.outcomes.items():
            if outcome != "skipped":
                tell(test.split("/")[-1], outcome, detail)


def psycopg2(folder):
    os.environ["PSYCOPG2_TESTDB"] = DATABASE
    os.environ["PSYCOPG2_TEST_FAST"] = "1"
    os.chdir(next(folder.glob("psycopg2-*/")))
    return ["tests", "-k", "not Replication"]


def sqlalchemy(folder):
    with psycopg.connect(autocommit=True) as c:
        c.execute("CREATE SCHEMA IF NOT EXISTS suite; CREATE SCHEMA IF NOT EXISTS test_schema")
    work = folder / "sqlalchemy"
    work.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (work / name).write_text(text)
    os.chdir(work)
    sys.path.insert(0, str(work))
    return ["test_suite.py", "--dburi", URL]


name, folder = sys.argv[1], Path(sys.argv[2])
driver(f"{name}, its own suite", version(PACKAGES[name]))
arguments = {"psycopg2": psycopg2, "sqlalchemy": sqlalchemy}[name](folder)
pytest.main(["-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *arguments], plugins=[Teller()])
