"""pg8000: the protocol in Python alone."""

import io
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal
from importlib.metadata import version

import pg8000.dbapi
import pg8000.native

from cases import DATABASE, HOST, LARGE_BYTES, LARGE_TEXT, PASSWORD, PORT, USER, case, driver, fails, run_all, until

LOGIN = dict(user=USER, password=PASSWORD, host=HOST, port=PORT, database=DATABASE)


def connect(**settings):
    return pg8000.native.Connection(**LOGIN, **settings)


def refused(code, body):
    return fails(code, body, lambda error: error.args[0].get("C") if isinstance(error.args[0], dict) else str(error))


def clean():
    c = connect()
    c.run("DELETE FROM page; DELETE FROM note; DELETE FROM draft")
    c.close()


@case
def connects_and_says_who_it_is():
    c = connect(application_name="shop", startup_params={"work_mem": "7MB"})
    assert c.run("SHOW application_name") == [["shop"]] and c.run("SHOW work_mem") == [["7MB"]]
    assert c.parameter_statuses["server_encoding"] == "UTF8"


@case
def parameters():
    assert connect().run("SELECT :a || :b", a="it's ", b="50%") == [["it's 50%"]]


@case
def a_prepared_statement_again_and_again():
    adds = connect().prepare("SELECT CAST(:i AS int) + 1")
    assert [adds.run(i=i) for i in range(20)] == [[[i]] for i in range(1, 21)]
    adds.close()


@case
def values_of_many_types():
    values = dict(
        body="text", amount=Decimal("12345678901234567890.123456789"), blob=b"\x00\xff\\", tags=["a", "b,c", None],
        at=datetime(2026, 2, 3, 4, 5, 6, 789, timezone.utc), day=date(1999, 12, 31), uid=uuid.UUID(int=1), flag=True,
    )
    names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
    row = connect().run(f"INSERT INTO note ({names}) VALUES ({marks}) RETURNING {names}", **values)[0]
    assert row == list(values.values()), row


@case
def nulls_and_unicode():
    assert connect().run("SELECT CAST(:a AS text), :b", a=None, b="日本 ☃ 🐘") == [[None, "日本 ☃ 🐘"]]


@case
def ten_megabytes():
    sql = "INSERT INTO note (body, blob) VALUES (:a, :b) RETURNING body, blob"
    assert connect().run(sql, a=LARGE_TEXT, b=LARGE_BYTES) == [[LARGE_TEXT, LARGE_BYTES]]


@case
def transactions_and_savepoints():
    c = connect()
    c.run("START TRANSACTION")
    c.run("INSERT INTO note (body) VALUES ('kept')")
    c.run("SAVEPOINT s")
    refused("22012", lambda: c.run("SELECT 1/0"))
    refused("25P02", lambda: c.run("SELECT 1"))
    c.run("ROLLBACK TO s")
    c.run("COMMIT")
    assert c.run("SELECT body FROM note") == [["kept"]]


@case
def errors_tell_where_and_why():
    c = connect()
    c.run("INSERT INTO note (id) VALUES (1)")
    said = refused("23505", lambda: c.run("INSERT INTO note (id) VALUES (1)")).args[0]
    assert (said["n"], said["D"]) == ("note_pkey", "Key (id)=(1) already exists.")


@case
def copy_in_and_out():
    c, lines = connect(), "".join(f"row {i}\t{i}\n" for i in range(10_000))
    c.run("COPY note (body, amount) FROM STDIN", stream=io.StringIO(lines))
    out = io.StringIO()
    c.run("COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT", stream=out)
    assert out.getvalue() == lines


@case
def a_cursor_of_the_server():
    c = connect()
    c.run("START TRANSACTION")
    c.run("DECLARE c SCROLL CURSOR FOR SELECT * FROM generate_series(1, 100)")
    assert c.run("FETCH FORWARD 2 FROM c") == [[1], [2]] and c.run("FETCH LAST FROM c") == [[100]]
    c.run("CLOSE c")
    c.run("COMMIT")


@case
def listen_and_notify():
    listener, sender = connect(), connect()
    listener.run("LISTEN news")
    sender.run("NOTIFY news, 'hello'")
    until(lambda: listener.run("SELECT 1") and listener.notifications)
    assert listener.notifications.pop()[1:] == ("news", "hello")


@case
def statement_timeout():
    c = connect()
    c.run("SET statement_timeout = '50ms'")
    refused("57014", lambda: c.run("SELECT pg_sleep(60)"))


@case
def a_batch():
    c = pg8000.dbapi.connect(**LOGIN)
    cursor = c.cursor()
    cursor.executemany("INSERT INTO note (body) VALUES (%s)", [(str(i),) for i in range(200)])
    c.commit()
    cursor.execute("SELECT count(*) FROM note")
    assert cursor.fetchone()[0] == 200


@case
def notices():
    c = connect()
    c.run("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert [said[b"M"] for said in c.notices] == [b"one", b"two"]


driver("pg8000", version("pg8000"))
run_all(clean)
