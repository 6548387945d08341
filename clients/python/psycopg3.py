"""psycopg 3, with libpq's pipelines, COPY and two-phase commit, its pool, and its asynchronous half."""

import asyncio
import threading
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from cases import LARGE_BYTES, LARGE_TEXT, URL, case, driver, fails, run_all, until


def connect(**settings):
    return psycopg.connect(URL, autocommit=True, **settings)


def one(connection, sql, parameters=None, **how):
    return connection.execute(sql, parameters, **how).fetchone()[0]


def refused(code, body):
    return fails(code, body, lambda error: error.sqlstate)


def clean():
    with connect() as c:
        c.execute("DELETE FROM page; DELETE FROM note; DELETE FROM draft")


@case
def connects_and_says_who_it_is():
    with connect(application_name="shop") as c:
        assert one(c, "SHOW application_name") == "shop"
        assert c.info.parameter_status("server_encoding") == "UTF8"
        assert c.info.server_version >= 140000 and c.info.backend_pid > 0


@case
def options_of_the_connection():
    with connect(options="-c work_mem=7MB -c search_path=pg_catalog,public") as c:
        assert one(c, "SHOW work_mem") == "7MB"
        assert one(c, "SHOW search_path") == "pg_catalog,public"


@case
def a_wrong_password_is_refused():
    wrong = URL.replace(":app@", ":wrong@")
    try:
        psycopg.connect(wrong)
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error), error
    else:
        raise AssertionError("it was let in")


@case
def several_statements_in_one_text():
    with connect() as c:
        cursor = c.execute("INSERT INTO note (body) VALUES ('one'); SELECT 2; SELECT 3")
        seen = []
        while True:
            seen.append(cursor.statusmessage)
            if not cursor.nextset():
                break
        assert seen == ["INSERT 0 1", "SELECT 1", "SELECT 1"], seen


@case
def parameters():
    with connect() as c:
        sql = "INSERT INTO note (body, amount) VALUES (%s, %s) RETURNING body, amount"
        assert c.execute(sql, ("it's", Decimal("1.50"))).fetchone() == ("it's", Decimal("1.50"))


@case
def a_prepared_statement_again_and_again():
    with connect(prepare_threshold=1) as c:
        for i in range(20):
            assert one(c, "SELECT %s + 1", (i,)) == i + 1
            c.execute("INSERT INTO note (body) VALUES (%s)", (str(i),), prepare=True)
        assert one(c, "SELECT count(*) FROM note") == 20
        assert one(c, "SELECT count(*) > 0 FROM pg_prepared_statements")


@case
def values_of_many_types():
    with connect() as c:
        values = (
            "text", Decimal("12345678901234567890.123456789"), Jsonb({"a": [1, None, "ž"]}), b"\x00\xff\\",
            ["a", "b,c", None], datetime(2026, 2, 3, 4, 5, 6, 789, timezone.utc), date(1999, 12, 31),
            uuid.UUID(int=1), True,
        )
        names = "body, amount, doc, blob, tags, at, day, uid, flag"
        marks = ", ".join(["%s"] * len(values))
        for binary in (False, True):
            cursor = c.cursor(binary=binary)
            cursor.execute(f"INSERT INTO note ({names}) VALUES ({marks}) RETURNING {names}", values)
            row = cursor.fetchone()
            assert row[:2] + row[3:] == values[:2] + values[3:] and row[2] == values[2].obj, row


@case
def nulls_and_unicode():
    with connect() as c:
        assert one(c, "SELECT %s::text", (None,)) is None
        assert one(c, "INSERT INTO note (body) VALUES (%s) RETURNING body", ("日本 ☃ 🐘",)) == "日本 ☃ 🐘"


@case
def ten_megabytes():
    with connect() as c:
        sql = "INSERT INTO note (body, blob) VALUES (%s, %s) RETURNING body, blob"
        assert c.execute(sql, (LARGE_TEXT, LARGE_BYTES), binary=True).fetchone() == (LARGE_TEXT, LARGE_BYTES)


@case
def transactions_and_savepoints():
    with connect() as c:
        with c.transaction():
            c.execute("INSERT INTO note (body) VALUES ('kept')")
            try:
                with c.transaction():
                    c.execute("INSERT INTO note (body) VALUES ('gone')")
                    c.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero:
                pass
            c.execute("INSERT INTO note (body) VALUES ('kept, too')")
        assert one(c, "SELECT string_agg(body, ';' ORDER BY id) FROM note") == "kept;kept, too"


@case
def an_error_ends_the_transaction_and_rollback_begins_anew():
    with psycopg.connect(URL) as c:
        c.execute("INSERT INTO note (body) VALUES ('gone')")
        refused("42P01", lambda: c.execute("SELECT * FROM nowhere"))
        refused("25P02", lambda: c.execute("SELECT 1"))
        c.rollback()
        assert one(c, "SELECT count(*) FROM note") == 0


@case
def errors_tell_where_and_why():
    with connect() as c:
        c.execute("INSERT INTO note (id) VALUES (1)")
        said = refused("23505", lambda: c.execute("INSERT INTO note (id) VALUES (1)")).diag
        assert (said.constraint_name, said.table_name, said.schema_name) == ("note_pkey", "note", "public")
        assert said.message_detail == "Key (id)=(1) already exists."
        said = refused("42601", lambda: c.execute("SELECT 1 FRM x y")).diag
        assert said.statement_position is not None
        refused("22P02", lambda: c.execute("SELECT %s::int", ("x",)))


@case
def copy_in_and_out():
    with connect() as c, c.cursor() as cursor:
        with cursor.copy("COPY note (body, amount) FROM STDIN") as copy:
            for i in range(10_000):
                copy.write_row((f"row {i}", i))
        with cursor.copy("COPY (SELECT body FROM note ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["text"])
            rows = list(copy.rows())
        assert len(rows) == 10_000 and rows[-1] == ("row 9999",)


@case
def a_copy_that_fails_leaves_nothing():
    with connect() as c, c.cursor() as cursor:
        def copies():
            with cursor.copy("COPY note (amount) FROM STDIN") as copy:
                copy.write(b"1\nnot a number\n")
        refused("22P02", copies)
        assert one(c, "SELECT count(*) FROM note") == 0


@case
def a_cursor_of_the_server():
    with psycopg.connect(URL) as c:
        c.execute("INSERT INTO note (body) SELECT i::text FROM generate_series(1, 1000) i")
        with c.cursor(name="some", scrollable=True) as cursor:
            cursor.execute("SELECT body::int FROM note ORDER BY id")
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(990, mode="absolute")
            assert len(cursor.fetchall()) == 10


@case
def a_cursor_with_hold():
    with psycopg.connect(URL) as c:
        with c.cursor(name="held", withhold=True) as cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            c.commit()
            assert cursor.fetchone() == (1,)
        c.commit()


@case
def rows_one_by_one():
    with connect() as c, c.cursor() as cursor:
        assert sum(row[0] for row in cursor.stream("SELECT generate_series(1, %s)", (1000,))) == 500_500


@case
def listen_and_notify():
    with connect() as listener, connect() as sender:
        listener.execute("LISTEN news")
        sender.execute("SELECT pg_notify('news', 'first')")
        sender.execute("NOTIFY news, 'second'")
        heard = [n.payload for n in listener.notifies(timeout=30, stop_after=2)]
        assert heard == ["first", "second"], heard


@case
def cancel():
    with connect() as c, connect() as other:
        pid = c.info.backend_pid
        def cancel_when_it_sleeps():
            sql = "SELECT true FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'"
            until(lambda: other.execute(sql).fetchone())
            c.cancel_safe()
        c.execute("SET application_name = 'sleeper'")
        waiting = threading.Thread(target=cancel_when_it_sleeps)
        waiting.start()
        refused("57014", lambda: c.execute("SELECT pg_sleep(60)"))
        waiting.join()
        assert one(c, "SELECT 1") == 1 and c.info.backend_pid == pid


@case
def statement_timeout():
    with connect() as c:
        c.execute("SET statement_timeout = '50ms'")
        refused("57014", lambda: c.execute("SELECT pg_sleep(60)"))
        c.execute("RESET statement_timeout")


@case
def a_pipeline():
    with connect() as c, c.pipeline():
        cursors = [c.execute("INSERT INTO note (body) VALUES (%s) RETURNING body", (str(i),)) for i in range(200)]
        assert [cursor.fetchone()[0] for cursor in cursors] == [str(i) for i in range(200)]


@case
def an_error_in_a_pipeline():
    with connect() as c:
        def piped():
            with c.pipeline():
                c.execute("INSERT INTO note (body) VALUES ('gone')")
                c.execute("SELECT 1/0")
                c.execute("INSERT INTO note (body) VALUES ('never')")
        refused("22012", piped)
        assert one(c, "SELECT count(*) FROM note") == 0


@case
def a_batch():
    with connect() as c, c.cursor() as cursor:
        cursor.executemany("INSERT INTO note (body) VALUES (%s) RETURNING body", [(str(i),) for i in range(500)], returning=True)
        seen = [result.fetchone()[0] for result in cursor.results()]
        assert seen == [str(i) for i in range(500)]


@case
def a_pool():
    with ConnectionPool(URL, min_size=4, max_size=4) as pool:
        pool.wait()
        def works():
            for _ in range(10):
                with pool.connection() as c:
                    c.execute("INSERT INTO note (body) VALUES ('pooled')")
        workers = [threading.Thread(target=works) for _ in range(8)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        with pool.connection() as c:
            assert one(c, "SELECT count(*) FROM note") == 80


@case
def isolation_levels():
    with psycopg.connect(URL) as c:
        for level in psycopg.IsolationLevel:
            c.isolation_level = level
            assert one(c, "SHOW transaction_isolation").replace(" ", "_").upper() == level.name
            c.rollback()
        c.isolation_level, c.read_only, c.deferrable = psycopg.IsolationLevel.SERIALIZABLE, True, True
        assert one(c, "SHOW transaction_read_only") == "on" and one(c, "SHOW transaction_deferrable") == "on"
        refused("25006", lambda: c.execute("INSERT INTO note (body) VALUES ('no')"))


@case
def a_serialization_failure():
    with psycopg.connect(URL) as one_, psycopg.connect(URL) as other:
        one_.isolation_level = other.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        for c in (one_, other):
            c.execute("SELECT count(*) FROM note")
        one_.execute("INSERT INTO note (body) VALUES ('a')")
        other.execute("INSERT INTO note (body) VALUES ('b')")
        one_.commit()
        refused("40001", other.commit)


@case
def two_phase_commit():
    with psycopg.connect(URL) as c, connect() as other:
        for outcome in ("commit", "rollback"):
            xid = c.xid(1, f"global {outcome}", "branch")
            c.tpc_begin(xid)
            c.execute("INSERT INTO draft (body) VALUES (%s)", (outcome,))
            c.tpc_prepare()
            assert [x.gtrid for x in other.tpc_recover()] == [xid.gtrid]
            c.tpc_commit() if outcome == "commit" else c.tpc_rollback()
        assert one(other, "SELECT string_agg(body, ';') FROM draft") == "commit"


@case
def notices():
    with connect() as c:
        heard = []
        c.add_notice_handler(lambda said: heard.append((said.severity, said.message_primary)))
        c.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
        assert heard == [("NOTICE", "one"), ("WARNING", "two")], heard


@case
def what_a_session_has_set():
    with connect() as c:
        c.execute("SET TIME ZONE 'Asia/Kolkata'")
        assert c.info.parameter_status("TimeZone") == "Asia/Kolkata"
        c.execute("CREATE TEMP TABLE mine AS SELECT 7 AS x")
        c.execute("BEGIN; SET LOCAL work_mem = '9MB'")
        assert one(c, "SHOW work_mem") == "9MB"
        c.execute("COMMIT")
        assert one(c, "SHOW work_mem") != "9MB" and one(c, "SELECT x FROM mine") == 7
        c.execute("DISCARD ALL")
        refused("42P01", lambda: c.execute("SELECT x FROM mine"))


@case
def asynchronous_sessions():
    async def works():
        async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as c:
            async with c.pipeline():
                await c.execute("INSERT INTO note (body) VALUES ('a')")
                cursor = await c.execute("SELECT count(*) FROM note")
            return (await cursor.fetchone())[0]

    async def several():
        return await asyncio.gather(*(works() for _ in range(5)))

    asyncio.run(several())
    with connect() as c:
        assert one(c, "SELECT count(*) FROM note") == 5


driver("psycopg", psycopg.__version__)
run_all(clean)
