"""asyncpg against the URL in the first argument. Every check raises; silence is success."""

import asyncio
import io
import sys
import time

import asyncpg

URL = sys.argv[1]


def check(have, want):
    assert have == want, f"got {have!r}, expected {want!r}"


async def connect(**options):
    return await asyncpg.connect(URL, **options)


async def transactions():
    c = await connect()
    check(await c.fetchval("SELECT name FROM numbers WHERE id = $1", 3), "number 3")
    try:
        async with c.transaction():
            await c.execute("INSERT INTO kv VALUES (80001, 1)")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    check(await c.fetchval("SELECT count(*) FROM kv WHERE id = 80001"), 0)
    async with c.transaction():
        await c.execute("INSERT INTO kv VALUES (80001, 1)")
        try:
            async with c.transaction():
                await c.execute("SELECT 1/0")
        except asyncpg.DivisionByZeroError:
            pass
    check(await c.fetchval("SELECT count(*) FROM kv WHERE id = 80001"), 1)
    await c.execute("DELETE FROM kv WHERE id = 80001")
    async with c.transaction(isolation="repeatable_read", readonly=True):
        check(await c.fetchval("SELECT count(*) FROM numbers"), 1000)
        try:
            async with c.transaction():
                await c.execute("INSERT INTO kv VALUES (80002, 1)")
            raise AssertionError("a write in a read-only transaction")
        except asyncpg.ReadOnlySQLTransactionError:
            pass
    await c.close()


async def prepared():
    c = await connect()
    statement = await c.prepare("SELECT name FROM numbers WHERE id = $1")
    for i in range(1, 50):
        check(await statement.fetchval(i), f"number {i}")
    # asyncpg names and keeps a hundred statements by itself, and drops the oldest.
    for i in range(130):
        check(await c.fetchval(f"SELECT {i} + $1::int", 1), i + 1)
    check(await statement.fetchval(51), "number 51")
    check([parameter.name for parameter in statement.get_parameters()], ["int4"])
    await c.executemany("INSERT INTO kv VALUES ($1, $2)", [(80200 + i, i) for i in range(100)])
    check(await c.fetchval("SELECT sum(value) FROM kv WHERE id BETWEEN 80200 AND 80299"), 4950)
    await c.execute("DELETE FROM kv WHERE id BETWEEN 80200 AND 80299")
    # Types are looked up in the catalog, with queries of asyncpg's own.
    check(await c.fetchval("SELECT 'wild'::mood"), "wild")
    check(await c.fetchval("SELECT ARRAY['calm', 'wild']::mood[]"), ["calm", "wild"])
    row = await c.fetchrow("SELECT ROW(1, 'x')::record AS r, now() AS t, '1 day'::interval AS i, '{\"a\": 1}'::jsonb AS j")
    check(row["j"], '{"a": 1}')
    await c.close()


async def cursors():
    c = await connect()
    async with c.transaction():
        seen = [record["id"] async for record in c.cursor("SELECT id FROM numbers ORDER BY id", prefetch=70)]
        check(seen, list(range(1, 1001)))
        cursor = await c.cursor("SELECT id FROM numbers ORDER BY id")
        check([r["id"] for r in await cursor.fetch(3)], [1, 2, 3])
        await cursor.forward(10)
        check((await cursor.fetchrow())["id"], 14)
    await c.close()


async def copies():
    c = await connect()
    out = io.BytesIO()
    await c.copy_from_query("SELECT id, name FROM numbers WHERE id <= $1 ORDER BY id", 100, output=out)
    check(out.getvalue().splitlines()[99], b"100\tnumber 100")
    tr = c.transaction()
    await tr.start()
    await c.copy_records_to_table("kv", records=[(81000 + i, i) for i in range(5000)])
    check(await c.fetchval("SELECT count(*) FROM kv WHERE id >= 81000 AND id < 86000"), 5000)
    await tr.rollback()
    try:
        await c.copy_records_to_table("kv", records=[(1, 1)])
        raise AssertionError("a duplicate key")
    except asyncpg.UniqueViolationError:
        pass
    check(await c.fetchval("SELECT 'after'"), "after")
    await c.close()


async def cancels():
    c = await connect()
    for _ in range(3):
        try:
            # asyncpg sends a cancel request when its own time is up.
            await c.fetchval("SELECT pg_sleep(60)", timeout=0.3)
            raise AssertionError("it was not cancelled")
        except asyncio.TimeoutError:
            pass
        check(await c.fetchval("SELECT 'alive'"), "alive")
    await c.close()


async def errors():
    c = await connect()
    try:
        await c.fetch("SELECT id,\n nonsense FROM numbers")
    except asyncpg.UndefinedColumnError as error:
        check((error.sqlstate, error.position), ("42703", "13"))
    try:
        await c.execute("INSERT INTO kv VALUES (1, 1)")
    except asyncpg.UniqueViolationError as error:
        check((error.table_name, error.constraint_name), ("kv", "kv_pkey"))
    await c.close()


async def notifications():
    listener, speaker = await connect(), await connect()
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("asyncpg_chat", lambda _c, _pid, _channel, payload: heard.done() or heard.set_result(payload))
    await speaker.execute("SELECT pg_notify('asyncpg_chat', 'hello')")
    check(await asyncio.wait_for(heard, 20), "hello")
    await listener.close()
    await speaker.close()


async def stateful(number):
    c = await connect(server_settings={"application_name": f"client {number}", "work_mem": f"{5001 + 2 * number}kB"})
    await c.execute(f"SET my.number = '{number}'")
    for i in range(1, 11):
        check(await c.fetchval("SHOW work_mem"), f"{5001 + 2 * number}kB")
        check(await c.fetchval("SHOW application_name"), f"client {number}")
        check(await c.fetchval("SELECT current_setting('my.number')"), str(number))
        check(await c.fetchval("SELECT name FROM numbers WHERE id = $1", i), f"number {i}")
        async with c.transaction():
            await c.execute("UPDATE kv SET value = $1 WHERE id = $2", i, 700 + number)
        check(await c.fetchval("SELECT value FROM kv WHERE id = $1", 700 + number), i)
    await c.close()


async def fifty_over_five():
    await asyncio.gather(*(stateful(number) for number in range(50)))


async def own_pool():
    # asyncpg's pool resets a connection with UNLISTEN *, CLOSE ALL, RESET ALL and unlock_all between its users.
    async with asyncpg.create_pool(URL, min_size=2, max_size=8) as pool:
        async def use(number):
            async with pool.acquire() as c:
                await c.execute(f"SET work_mem = '{7001 + 2 * number}kB'")
                check(await c.fetchval("SHOW work_mem"), f"{7001 + 2 * number}kB")
                check(await c.fetchval("SELECT name FROM numbers WHERE id = $1", number + 1), f"number {number + 1}")
        await asyncio.gather(*(use(number) for number in range(40)))
        check(await pool.fetchval("SHOW work_mem"), "4MB")


async def main():
    for step in [transactions, prepared, cursors, copies, cancels, errors, notifications, fifty_over_five, own_pool]:
        began = time.monotonic()
        await step()
        print(f"asyncpg: {step.__name__} ({time.monotonic() - began:.1f} s)")


asyncio.run(main())
