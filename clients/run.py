#!/usr/bin/env python3
"""Do drivers find through a gateway what they find at PostgreSQL itself?

Every driver of drivers.toml runs its cases at each place below, and every difference from `direct` has to be explained
in differences.toml. Writes target/clients.json and, when all drivers ran everywhere, docs/reference/clients.md.
"""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BUILT = TARGET / "clients"
PASSWORD = "app"
DRIVER_SECONDS_MAX = 600

# In which world, at whose door, and as whom.
PLACES = {
    "direct": ("whole", "eu", "postgres", "app"),
    "owner": ("whole", "eu", "gateway", "app"),
    "follower": ("whole", "us", "gateway", "app"),
    "shared": ("shared", "eu", "gateway", "app"),
    "elsewhere": ("divided", "us", "gateway", "tenant"),
}
# How a world's rows are divided, and what its gateways do.
WORLDS = {
    "whole": ("--partition", "whole", "--partitions", "1"),
    "shared": ("--partition", "whole", "--partitions", "1", "--gateway", 'sharing = "transaction"'),
    "divided": ("--partition", "home(home)", "--partitions", "2"),
}


def main():
    drivers = tomllib.loads((HERE / "drivers.toml").read_text())
    arguments = parse(drivers)
    chosen = {name: drivers[name] for name in arguments.driver or drivers}
    results = {name: {} for name in chosen}
    for name in WORLDS:
        places = [place for place in arguments.place or PLACES if PLACES[place][0] == name]
        if places:
            run_in_world(name, places, chosen, results)
    explained = tomllib.loads((HERE / "differences.toml").read_text())["difference"]
    report = table.Report(results, explained)
    (TARGET / "clients.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    print(f"\n{report.words()}\nAll of it is in {TARGET / 'clients.json'}.")
    complete = not arguments.driver and not arguments.place
    if complete:
        (ROOT / "docs/reference/clients.md").write_text(report.page())
    return 1 if report.unexplained() or (complete and report.outdated()) else 0


def parse(drivers):
    parser = argparse.ArgumentParser(
        description="Runs drivers at PostgreSQL and through gateways, and compares.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  make test-clients                                   all of them, everywhere\n"
        '  make test-clients ARGS="--driver asyncpg"           one of them\n'
        '  make test-clients ARGS="--place direct --place owner"',
    )
    parser.add_argument("--driver", action="append", choices=drivers, help="only this one; may be given several times")
    parser.add_argument("--place", action="append", choices=PLACES, help="only there; may be given several times")
    return parser.parse_args()


def run_in_world(name, places, drivers, results):
    with world(name) as regions:
        for driver in drivers:
            for place in places:
                results[driver][place] = run(driver, drivers[driver], place, regions)


@contextlib.contextmanager
def world(name):
    """Two regions for as long as they are needed."""
    command = [
        TARGET / "debug/examples/world", "--binary", TARGET / "debug/domicile",
        "--seed", HERE / "world.sql", "--tables", HERE / "tables.toml",
        *WORLDS[name],
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit(f"clients: the regions did not start (world {name})")
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait()


def run(name, driver, place, regions):
    """Returns what a driver told of itself and of its cases."""
    _, region, door, user = PLACES[place]
    clean(regions)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PG")},
        "PGHOST": "127.0.0.1",
        "PGPORT": str(regions[region][door]),
        "PGUSER": user,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": "postgres",
        # Where there is another door, which leads to the same rows.
        "OTHER_PORT": str(regions["us"]["gateway"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = shlex.split(driver["run"].format(built=BUILT, python=BUILT / "venv/bin/python"))
    log = BUILT / "logs" / f"{name.replace('/', '-')}-{place}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    told = {"version": None, "cases": {}}
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                command, cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=errors, timeout=DRIVER_SECONDS_MAX
            )
            output, ended = done.stdout, f"ended with {done.returncode}" if done.returncode else None
        except subprocess.TimeoutExpired as late:
            output, ended = late.stdout or b"", f"did not end within {DRIVER_SECONDS_MAX} s"
    for line in output.decode(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            take(told, json.loads(line))
    if ended or not told["cases"]:
        told["cases"]["the program itself"] = {"outcome": "failed", "detail": ended or "told nothing"}
    passed = sum(case["outcome"] == "passed" for case in told["cases"].values())
    print(f"{name}, {place}: {passed} of {len(told['cases'])} passed", flush=True)
    for case, how in told["cases"].items():
        if how["outcome"] != "passed":
            print(f"    {case}: {how['outcome']}: {how['detail']}"[:400], flush=True)
    return told


def take(told, line):
    if not isinstance(line, dict):
        return
    if "driver" in line:
        told["version"] = line["version"]
    elif "case" in line:
        told["cases"][line["case"]] = {key: line[key] for key in ("outcome", "detail", "seen") if key in line}


def clean(regions):
    """Takes away what the driver before left, in both regions, past their gateways."""
    sql = """
        SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts \\gexec
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('app', 'tenant') \\g /dev/null
        SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace WHERE nspowner::regrole::text IN ('app', 'tenant') \\gexec
        SELECT format('DROP %s IF EXISTS %s CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
            FROM pg_class WHERE relowner::regrole::text IN ('app', 'tenant') AND relkind IN ('r', 'p', 'v') \\gexec
    """
    for region in regions.values():
        # Not in one transaction, and none of it waits for a copy.
        subprocess.run(
            ["psql", "-XqAt", f"host=127.0.0.1 port={region['postgres']} user=postgres dbname=postgres"],
            input=f"SET client_min_messages = error; SET synchronous_commit = local;\n{sql}",
            text=True, check=True, stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    sys.exit(main())
