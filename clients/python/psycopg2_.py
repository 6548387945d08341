"""psycopg2: libpq's simple protocol, its classic COPY, named cursors, pool and two-phase commit."""

import io
import json
import select
import threading
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal

import psycopg2
import psycopg2.extensions as extensions
import psycopg2.extras as extras
from psycopg2.pool import ThreadedConnectionPool

from cases import LARGE_BYTES, LARGE_TEXT, URL, case, driver, fails, run_all, until

extras.register_uuid()


def connect(autocommit=True, **settings):
    connection = psycopg2.connect(URL, **settings)
    connection.autocommit = autocommit
    return connection


def rows(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.statusmessage


def one(connection, sql, parameters=None):
    return rows(connection, sql, parameters)[0][0]


def refused(code, body):
    return fails(code, body, lambda error: error.pgcode)


def clean():
    rows(connect(), "DELETE FROM page; DELETE FROM note; DELETE FROM draft")


@case
def connects_and_says_who_it_is():
    c = connect(application_name="shop", options="-c work_mem=7MB")
    assert one(c, "SHOW application_name") == "shop" and one(c, "SHOW work_mem") == "7MB"
    assert c.get_parameter_status("server_encoding") == "UTF8" and c.server_version >= 140000


@case
def parameters_and_several_statements():
    c = connect()
    assert one(c, "INSERT INTO note (body) VALUES ('x'); SELECT %s || %s", ("it's ", "50%")) == "it's 50%"
    assert one(c, "SELECT count(*) FROM note") == 1


@case
def a_prepared_statement_again_and_again():
    c = connect()
    rows(c, "PREPARE adds (int) AS SELECT $1 + 1")
    assert [one(c, "EXECUTE adds (%s)", (i,)) for i in range(20)] == list(range(1, 21))
    rows(c, "DEALLOCATE adds")
    refused("26000", lambda: rows(c, "EXECUTE adds (1)"))


@case
def values_of_many_types():
    c = connect()
    values = (
        "text", Decimal("12345678901234567890.123456789"), extras.Json({"a": [1, None, "ž"]}),
        psycopg2.Binary(b"\x00\xff\\"), ["a", "b,c", None],
        datetime(2026, 2, 3, 4, 5, 6, 789, timezone.utc), date(1999, 12, 31), uuid.UUID(int=1), True,
    )
    names = "body, amount, doc, blob, tags, at, day, uid, flag"
    marks = ", ".join(["%s"] * len(values))
    row = rows(c, f"INSERT INTO note ({names}) VALUES ({marks}) RETURNING {names}", values)[0]
    assert row[:2] == values[:2] and row[4:] == values[4:] and bytes(row[3]) == b"\x00\xff\\", row
    assert row[2] == json.loads('{"a": [1, null, "ž"]}')


@case
def nulls_and_unicode():
    c = connect()
    assert rows(c, "SELECT %s::text, %s", (None, "日本 ☃ 🐘")) == [(None, "日本 ☃ 🐘")]


@case
def ten_megabytes():
    sql = "INSERT INTO note (body, blob) VALUES (%s, %s) RETURNING body, blob"
    text, blob = rows(connect(), sql, (LARGE_TEXT, psycopg2.Binary(LARGE_BYTES)))[0]
    assert text == LARGE_TEXT and bytes(blob) == LARGE_BYTES


@case
def transactions_and_savepoints():
    c = connect(autocommit=False)
    rows(c, "INSERT INTO note (body) VALUES ('kept'); SAVEPOINT s")
    rows(c, "INSERT INTO note (body) VALUES ('gone')")
    refused("22012", lambda: rows(c, "SELECT 1/0"))
    rows(c, "ROLLBACK TO s")
    c.commit()
    assert one(c, "SELECT string_agg(body, ';') FROM note") == "kept"


@case
def an_error_ends_the_transaction_and_rollback_begins_anew():
    c = connect(autocommit=False)
    rows(c, "INSERT INTO note (body) VALUES ('gone')")
    refused("42P01", lambda: rows(c, "SELECT * FROM nowhere"))
    refused("25P02", lambda: rows(c, "SELECT 1"))
    c.rollback()
    assert one(c, "SELECT count(*) FROM note") == 0


@case
def errors_tell_where_and_why():
    c = connect()
    rows(c, "INSERT INTO note (id) VALUES (1)")
    said = refused("23505", lambda: rows(c, "INSERT INTO note (id) VALUES (1)")).diag
    assert (said.constraint_name, said.message_detail) == ("note_pkey", "Key (id)=(1) already exists.")


@case
def copy_in_and_out():
    c = connect()
    lines = "".join(f"row {i}\t{i}\n" for i in range(10_000))
    with c.cursor() as cursor:
        cursor.copy_expert("COPY note (body, amount) FROM STDIN", io.StringIO(lines))
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT", out)
    assert out.getvalue() == lines


@case
def a_cursor_of_the_server():
    c = connect(autocommit=False)
    with c.cursor("some", scrollable=True) as cursor:
        cursor.itersize = 10
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(row[0] for row in cursor) == 500_500
        cursor.scroll(5, mode="absolute")
        assert cursor.fetchone() == (6,)
    with c.cursor("held", withhold=True) as cursor:
        cursor.execute("SELECT generate_series(1, 10)")
        c.commit()
        assert cursor.fetchone() == (1,)


@case
def listen_and_notify():
    listener, sender = connect(), connect()
    rows(listener, "LISTEN news")
    rows(sender, "NOTIFY news, 'hello'")
    while not listener.notifies:
        assert select.select([listener], [], [], 30)[0], "nothing was heard"
        listener.poll()
    assert listener.notifies.pop().payload == "hello"


@case
def cancel():
    c, other = connect(application_name="sleeper"), connect()

    def cancel_when_it_sleeps():
        sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'"
        until(lambda: rows(other, sql))
        c.cancel()

    waiting = threading.Thread(target=cancel_when_it_sleeps)
    waiting.start()
    refused("57014", lambda: rows(c, "SELECT pg_sleep(60)"))
    waiting.join()
    assert one(c, "SELECT 1") == 1


@case
def statement_timeout():
    c = connect(options="-c statement_timeout=50ms")
    refused("57014", lambda: rows(c, "SELECT pg_sleep(60)"))


@case
def a_batch():
    c = connect()
    with c.cursor() as cursor:
        extras.execute_values(cursor, "INSERT INTO note (body) VALUES %s", [(str(i),) for i in range(500)])
        extras.execute_batch(cursor, "INSERT INTO note (body) VALUES (%s)", [(str(i),) for i in range(500)])
    assert one(c, "SELECT count(*) FROM note") == 1000


@case
def a_pool():
    pool = ThreadedConnectionPool(2, 4, URL)
    connections = [pool.getconn() for _ in range(4)]
    for c in connections:
        rows(c, "INSERT INTO note (body) VALUES ('pooled')")
        c.commit()
        pool.putconn(c)
    pool.closeall()
    assert one(connect(), "SELECT count(*) FROM note") == 4


@case
def isolation_levels():
    c = connect(autocommit=False)
    c.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    assert one(c, "SHOW transaction_isolation") == "serializable"
    refused("25006", lambda: rows(c, "INSERT INTO note (body) VALUES ('no')"))
    c.rollback()
    c.set_session(isolation_level=extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=False, deferrable=False)
    assert one(c, "SHOW transaction_isolation") == "repeatable read"


@case
def two_phase_commit():
    c = connect(autocommit=False)
    for outcome in ("commit", "rollback"):
        c.tpc_begin(c.xid(1, f"global {outcome}", "branch"))
        rows(c, "INSERT INTO draft (body) VALUES (%s)", (outcome,))
        c.tpc_prepare()
        c.tpc_commit() if outcome == "commit" else c.tpc_rollback()
    assert one(c, "SELECT string_agg(body, ';') FROM draft") == "commit"


@case
def notices():
    c = connect()
    rows(c, "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert c.notices == ["NOTICE:  one\n", "WARNING:  two\n"], c.notices


@case
def a_large_object():
    c = connect(autocommit=False)
    large = c.lobject(0, "wb")
    large.write(LARGE_BYTES)
    number = large.oid
    large.close()
    assert c.lobject(number, "rb").read() == LARGE_BYTES
    c.lobject(number).unlink()
    c.commit()


@case
def asynchronous_sessions():
    def wait(c):
        while (state := c.poll()) != extensions.POLL_OK:
            read, write = ([c], []) if state == extensions.POLL_READ else ([], [c])
            assert any(select.select(read, write, [], 30)), "nothing came"

    c = psycopg2.connect(URL, async_=True)
    wait(c)
    cursor = c.cursor()
    cursor.execute("INSERT INTO note (body) VALUES ('a') RETURNING body")
    wait(c)
    assert cursor.fetchone() == ("a",)


driver("psycopg2", psycopg2.__version__.split()[0])
run_all(clean)
