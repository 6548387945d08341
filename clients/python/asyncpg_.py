"""asyncpg: the extended protocol with binary values, statements that are kept, and a pool that resets."""

import asyncio
import io
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal

import asyncpg

from cases import LARGE_BYTES, LARGE_TEXT, URL, case, driver, fails, run_all


def asynchronous(function):
    """Registers a case that is a coroutine, with a session of its own."""
    def body():
        async def works():
            c = await asyncpg.connect(URL)
            try:
                await asyncio.wait_for(function(c), 120)
            finally:
                await c.close()
        asyncio.run(works())
    body.__name__ = function.__name__
    return case(body)


async def refused(code, awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        assert error.sqlstate == code, f"{error.sqlstate}: {error}"
        return error
    raise AssertionError(f"no error where {code} was expected")


def clean():
    async def works():
        c = await asyncpg.connect(URL)
        await c.execute("DELETE FROM page; DELETE FROM note; DELETE FROM draft")
        await c.close()
    asyncio.run(works())


@asynchronous
async def connects_and_says_who_it_is(c):
    other = await asyncpg.connect(URL, server_settings={"application_name": "shop", "work_mem": "7MB"})
    assert await other.fetchval("SHOW application_name") == "shop"
    assert await other.fetchval("SHOW work_mem") == "7MB"
    assert other.get_settings().server_encoding == "UTF8"
    await other.close()


@asynchronous
async def several_statements_in_one_text(c):
    assert await c.execute("INSERT INTO note (body) VALUES ('a'); SELECT 1") == "SELECT 1"


@asynchronous
async def parameters(c):
    assert await c.fetchval("SELECT $1 || $2", "it's ", "50%") == "it's 50%"


@asynchronous
async def a_prepared_statement_again_and_again(c):
    statement = await c.prepare("INSERT INTO note (body) VALUES ($1) RETURNING body")
    for i in range(20):
        assert await statement.fetchval(str(i)) == str(i)
    assert statement.get_attributes()[0].name == "body"
    assert await c.fetchval("SELECT count(*) FROM note") == 20


@asynchronous
async def values_of_many_types(c):
    values = (
        "text", Decimal("12345678901234567890.123456789"), '{"a": [1, null, "ž"]}', b"\x00\xff\\", ["a", "b,c", None],
        datetime(2026, 2, 3, 4, 5, 6, 789, timezone.utc), date(1999, 12, 31), uuid.UUID(int=1), True,
    )
    names = "body, amount, doc, blob, tags, at, day, uid, flag"
    marks = ", ".join(f"${i + 1}" for i in range(len(values)))
    row = await c.fetchrow(f"INSERT INTO note ({names}) VALUES ({marks}) RETURNING {names}", *values)
    assert tuple(row) == values, row


@asynchronous
async def a_type_of_the_users_own(c):
    await c.execute("CREATE TYPE mood AS ENUM ('glad', 'sad')")
    try:
        assert await c.fetchval("SELECT $1::mood[]", ["sad", "glad"]) == ["sad", "glad"]
    finally:
        await c.execute("DROP TYPE mood")


@asynchronous
async def nulls_and_unicode(c):
    assert tuple(await c.fetchrow("SELECT $1::text, $2::text", None, "日本 ☃ 🐘")) == (None, "日本 ☃ 🐘")


@asynchronous
async def ten_megabytes(c):
    sql = "INSERT INTO note (body, blob) VALUES ($1, $2) RETURNING body, blob"
    assert tuple(await c.fetchrow(sql, LARGE_TEXT, LARGE_BYTES)) == (LARGE_TEXT, LARGE_BYTES)


@asynchronous
async def transactions_and_savepoints(c):
    async with c.transaction():
        await c.execute("INSERT INTO note (body) VALUES ('kept')")
        try:
            async with c.transaction():
                await c.execute("INSERT INTO note (body) VALUES ('gone')")
                await c.fetchval("SELECT 1/0")
        except asyncpg.DivisionByZeroError:
            pass
    assert await c.fetchval("SELECT string_agg(body, ';') FROM note") == "kept"


@asynchronous
async def an_error_ends_the_transaction_and_rollback_begins_anew(c):
    transaction = c.transaction()
    await transaction.start()
    await refused("42P01", c.fetch("SELECT * FROM nowhere"))
    await refused("25P02", c.fetch("SELECT 1"))
    await transaction.rollback()
    assert await c.fetchval("SELECT 1") == 1


@asynchronous
async def errors_tell_where_and_why(c):
    await c.execute("INSERT INTO note (id) VALUES (1)")
    error = await refused("23505", c.execute("INSERT INTO note (id) VALUES (1)"))
    assert (error.constraint_name, error.detail) == ("note_pkey", "Key (id)=(1) already exists.")


@asynchronous
async def copy_in_and_out(c):
    records = [(f"row {i}", Decimal(i)) for i in range(10_000)]
    assert await c.copy_records_to_table("note", columns=["body", "amount"], records=records) == "COPY 10000"
    out = io.BytesIO()
    await c.copy_from_query("SELECT body FROM note ORDER BY id", output=out)
    assert out.getvalue().decode() == "".join(f"row {i}\n" for i in range(10_000))


@asynchronous
async def a_cursor_of_the_server(c):
    async with c.transaction():
        numbers = [row[0] async for row in c.cursor("SELECT generate_series(1, $1::int)", 1000, prefetch=10)]
        assert sum(numbers) == 500_500
        cursor = await c.cursor("SELECT generate_series(1, 100)")
        await cursor.forward(50)
        assert (await cursor.fetchrow())[0] == 51


@asynchronous
async def listen_and_notify(c):
    heard = asyncio.Queue()
    await c.add_listener("news", lambda _c, _pid, _channel, payload: heard.put_nowait(payload))
    other = await asyncpg.connect(URL)
    await other.execute("NOTIFY news, 'hello'")
    assert await asyncio.wait_for(heard.get(), 30) == "hello"
    await other.close()


@asynchronous
async def cancel(c):
    pid, other = c.get_server_pid(), await asyncpg.connect(URL)
    await c.execute("SET application_name = 'sleeper'")
    sleeping = asyncio.create_task(c.execute("SELECT pg_sleep(60)"))
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = $1"
    async with asyncio.timeout(30):
        while await other.fetchval(sql, "PgSleep") == 0:
            pass
    sleeping.cancel()
    try:
        await sleeping
    except asyncio.CancelledError:
        pass
    # The session waits by itself until its statement has ended.
    assert await c.fetchval("SELECT 1") == 1 and c.get_server_pid() == pid
    assert await other.fetchval(sql, "PgSleep") == 0
    await other.close()


@asynchronous
async def statement_timeout(c):
    await c.execute("SET statement_timeout = '50ms'")
    await refused("57014", c.fetchval("SELECT pg_sleep(60)"))


@asynchronous
async def a_batch(c):
    await c.executemany("INSERT INTO note (body) VALUES ($1)", [(str(i),) for i in range(1000)])
    assert await c.fetchval("SELECT count(*) FROM note") == 1000
    await refused("23505", c.executemany("INSERT INTO note (id) VALUES ($1)", [(-1,), (-2,), (-1,)]))
    assert await c.fetchval("SELECT count(*) FROM note") == 1000


@asynchronous
async def a_pool(c):
    async with asyncpg.create_pool(URL, min_size=2, max_size=4) as pool:
        await asyncio.gather(*(pool.execute("INSERT INTO note (body) VALUES ('pooled')") for _ in range(40)))
        async with pool.acquire() as session:
            await session.execute("SET work_mem = '7MB'")
        for _ in range(4):
            assert await pool.fetchval("SHOW work_mem") != "7MB"
    assert await c.fetchval("SELECT count(*) FROM note") == 40


@asynchronous
async def isolation_levels(c):
    for level in ("read_committed", "repeatable_read", "serializable"):
        async with c.transaction(isolation=level):
            assert await c.fetchval("SHOW transaction_isolation") == level.replace("_", " ")
    async with c.transaction(isolation="serializable", readonly=True, deferrable=True):
        assert await c.fetchval("SHOW transaction_read_only") == "on"


@asynchronous
async def notices(c):
    heard = []
    c.add_log_listener(lambda _c, said: heard.append(said.message))
    await c.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    await c.fetchval("SELECT 1")
    assert heard == ["one", "two"], heard


@asynchronous
async def a_schema_that_changes_under_a_statement(c):
    await c.execute("CREATE TEMP TABLE changes (a int); INSERT INTO changes VALUES (1)")
    assert tuple(await c.fetchrow("SELECT * FROM changes")) == (1,)
    await c.execute("ALTER TABLE changes ADD b text DEFAULT 'x'")
    assert tuple(await c.fetchrow("SELECT * FROM changes")) == (1, "x")


driver("asyncpg", asyncpg.__version__)
run_all(clean)
