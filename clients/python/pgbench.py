"""pgbench: its own tables made through the door, and all of its modes without one failed transaction."""

import subprocess
import tempfile

from cases import driver, run

PIPELINE = """
\\set bid random(1, 10)
\\startpipeline
BEGIN;
INSERT INTO note (body) VALUES (:bid);
UPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = :bid;
END;
\\endpipeline
"""
GSET = """
SELECT count(*) AS n FROM pgbench_branches \\gset
\\if :n > 0
SELECT 1 AS first \\; SELECT 2 AS last \\aset
\\endif
"""
CLIENTS = ["--client", "4", "--jobs", "2", "--transactions", "50", "--no-vacuum"]


def pgbench(*arguments):
    done = subprocess.run(["pgbench", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loads(*arguments):
    said = pgbench(*CLIENTS, *arguments)
    assert "number of failed transactions: 0 " in said and "200/200" in said, said


def script(text, *arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(text)
        file.flush()
        loads("--file", file.name, *arguments)


driver("pgbench", subprocess.run(["pgbench", "--version"], capture_output=True, text=True).stdout.split()[2])
run("--initialize", lambda: pgbench("--initialize", "--quiet", "--foreign-keys") and None)
run("--initialize on the server", lambda: pgbench("--initialize", "--init-steps=dtGvp") and None)
for protocol in ("simple", "extended", "prepared"):
    run(f"TPC-B, {protocol}", lambda: loads("--protocol", protocol))
    run(f"simple update, {protocol}", lambda: loads("--builtin", "simple-update", "--protocol", protocol))
    run(f"select only, {protocol}", lambda: loads("--builtin", "select-only", "--protocol", protocol))
run("--connect", lambda: loads("--connect"))
run("a pipeline", lambda: script(PIPELINE, "--protocol", "extended"))
run("a pipeline, prepared", lambda: script(PIPELINE, "--protocol", "prepared"))
run("\\gset and \\aset", lambda: script(GSET))
