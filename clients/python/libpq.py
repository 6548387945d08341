"""libpq's own: several hosts, target_session_attrs, what a connection string may say, through psycopg 3."""

import os
import tempfile
from pathlib import Path

import psycopg
from psycopg import pq

from cases import DATABASE, HOST, PASSWORD, PORT, USER, case, driver, run_all

LOGIN = f"user={USER} password={PASSWORD} dbname={DATABASE} connect_timeout=10"
HERE = f"host={HOST} port={PORT}"
DEAD_FIRST = f"host={HOST},{HOST} port=1,{PORT}"


def writes(conninfo):
    with psycopg.connect(f"{LOGIN} {conninfo}", autocommit=True) as c:
        c.execute("INSERT INTO note (body) VALUES ('written')")
        return c


def refused(conninfo, words):
    try:
        psycopg.connect(f"{LOGIN} {conninfo}").close()
    except psycopg.OperationalError as error:
        assert words in str(error), error
    else:
        raise AssertionError("it was let in")


def clean():
    with psycopg.connect(f"{LOGIN} {HERE}", autocommit=True) as c:
        c.execute("DELETE FROM page; DELETE FROM note")


@case
def several_hosts_the_first_is_dead():
    writes(DEAD_FIRST)


@case
def several_addresses_of_one_host():
    writes(f"hostaddr=127.0.0.1,127.0.0.1 host=nowhere.invalid,there.invalid port=1,{PORT}")


@case
def target_session_attrs():
    for wanted in ("any", "read-write", "primary", "prefer-standby"):
        writes(f"{DEAD_FIRST} target_session_attrs={wanted}")
    refused(f"{DEAD_FIRST} target_session_attrs=read-only", "session is not read-only")
    refused(f"{DEAD_FIRST} target_session_attrs=standby", "server is not in hot standby mode")


@case
def target_session_attrs_of_another_region():
    # Whichever of both answers first, it takes what is written.
    writes(f"host={HOST},{HOST} port={os.environ['OTHER_PORT']},{PORT} target_session_attrs=read-write")


@case
def load_balance_hosts():
    if pq.version() >= 160000:
        writes(f"{DEAD_FIRST} load_balance_hosts=random")


@case
def sslmode_without_certificates():
    for mode in ("disable", "allow", "prefer"):
        writes(f"{HERE} sslmode={mode}")
    refused(f"{HERE} sslmode=require", "server does not support SSL")


@case
def direct_ssl_and_gss_are_not_there():
    writes(f"{HERE} gssencmode=prefer")
    if pq.version() >= 170000:
        refused(f"{HERE} sslmode=require sslnegotiation=direct", "SSL")


@case
def authentication_is_scram():
    writes(f"{HERE} require_auth=scram-sha-256 channel_binding=prefer")
    refused(f"{HERE} require_auth=password", "authentication method requirement")
    refused(f"{HERE} channel_binding=require", "channel binding")


@case
def the_newest_protocol():
    if pq.version() >= 180000:
        writes(f"{HERE} max_protocol_version=latest")
        refused(f"{HERE} min_protocol_version=3.2", "protocol")


@case
def a_password_file_and_a_service():
    with tempfile.TemporaryDirectory() as folder:
        passwords, services = Path(folder, "pgpass"), Path(folder, "services")
        passwords.write_text(f"{HOST}:{PORT}:*:{USER}:{PASSWORD}\n")
        passwords.chmod(0o600)
        services.write_text(f"[here]\nhost={HOST}\nport={PORT}\nuser={USER}\ndbname={DATABASE}\n")
        kept = {name: os.environ.pop(name) for name in ("PGPASSWORD", "PGHOST", "PGPORT", "PGUSER")}
        os.environ["PGSERVICEFILE"] = str(services)
        try:
            psycopg.connect(f"service=here passfile={passwords}").close()
        finally:
            os.environ.update(kept)


@case
def keepalives_and_timeouts():
    writes(f"{HERE} keepalives=1 keepalives_idle=1 tcp_user_timeout=10000 application_name=shop")


@case
def a_database_that_does_not_exist():
    refused(f"{HERE} dbname=nowhere", 'database "nowhere" does not exist')


@case
def a_role_that_does_not_exist():
    refused(f"{HERE} user=nobody_at_all", "password authentication failed")


@case
def a_function_call_of_the_protocol():
    # Large objects are read and written by it.
    with psycopg.connect(f"{LOGIN} {HERE}") as c:
        c.execute("SELECT lo_from_bytea(0, 'x')")


@case
def what_a_server_reports():
    with psycopg.connect(f"{LOGIN} {HERE} application_name=shop") as c:
        reported = {name: c.info.parameter_status(name) for name in (
            "server_version", "server_encoding", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone",
            "integer_datetimes", "standard_conforming_strings", "is_superuser", "in_hot_standby", "application_name",
            "default_transaction_read_only", "session_authorization",
        )}
        reported["session_authorization"] = reported["session_authorization"] == USER
    return repr(reported)


version = pq.version()
driver("libpq", f"{version // 10000}.{version % 10000}")
run_all(clean)
