"""psycopg 3 against the URL in the first argument. Every check raises; silence is success."""

import concurrent.futures
import sys
import threading
import time

import psycopg
from psycopg import errors, sql

URL = sys.argv[1]


def connect(**options):
    return psycopg.connect(URL, **options)


def check(have, want):
    assert have == want, f"got {have!r}, expected {want!r}"


def one(connection, query, parameters=None, **options):
    return connection.execute(query, parameters, **options).fetchone()[0]


def transactions():
    with connect() as c:
        check(one(c, "SELECT name FROM numbers WHERE id = %s", [3]), "number 3")
        try:
            with c.transaction():
                c.execute("INSERT INTO kv VALUES (70001, 1)")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        check(one(c, "SELECT count(*) FROM kv WHERE id = 70001"), 0)
        with c.transaction():
            c.execute("INSERT INTO kv VALUES (70001, 1)")
            try:
                with c.transaction():
                    c.execute("SELECT 1/0")
            except errors.DivisionByZero:
                pass
            check(one(c, "SELECT count(*) FROM kv WHERE id = 70001"), 1)
        c.commit()
        check(one(c, "SELECT count(*) FROM kv WHERE id = 70001"), 1)
        c.execute("DELETE FROM kv WHERE id = 70001")
    with connect() as c:
        c.read_only = True
        c.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        check(one(c, "SELECT count(*) FROM numbers"), 1000)
        try:
            c.execute("INSERT INTO kv VALUES (70002, 1)")
            raise AssertionError("a write in a read-only transaction")
        except errors.ReadOnlySqlTransaction:
            c.rollback()


def prepared():
    with connect(autocommit=True, prepare_threshold=0) as c:
        for i in range(1, 30):
            check(one(c, "SELECT name FROM numbers WHERE id = %s", [i]), f"number {i}")
            check(one(c, "SELECT %s::int * 2", [i]), i * 2)
        c.execute("DISCARD ALL")
    with connect(autocommit=True) as c:
        # psycopg prepares by itself from the fifth time on, and drops the oldest of more than a hundred.
        for i in range(130):
            for _ in range(6):
                check(one(c, f"SELECT {i} + %s::int", [1]), i + 1)
        with c.cursor(binary=True) as cursor:
            check(cursor.execute("SELECT half, name FROM numbers WHERE id = %s", [5]).fetchone()[1], "number 5")


def pipelines():
    with connect(autocommit=True) as c:
        with c.pipeline() as p:
            cursors = [c.execute("SELECT name FROM numbers WHERE id = %s", [i]) for i in range(1, 50)]
            p.sync()
            check([cursor.fetchone()[0] for cursor in cursors], [f"number {i}" for i in range(1, 50)])
            c.execute("INSERT INTO kv VALUES (70100, 1)")
            check(one(c, "SELECT count(*) FROM kv WHERE id = 70100"), 1)
            c.execute("DELETE FROM kv WHERE id = 70100")
        try:
            with c.pipeline() as p:
                c.execute("SELECT 1")
                c.execute("SELECT 1/0")
                c.execute("SELECT 2")
                p.sync()
            raise AssertionError("an error within a pipeline")
        except (errors.DivisionByZero, errors.PipelineAborted):
            pass
        check(one(c, "SELECT 'still here'"), "still here")
    with connect() as c:
        with c.pipeline():
            with c.transaction():
                c.execute("INSERT INTO kv VALUES (70101, 1)")
                cursor = c.execute("SELECT value FROM kv WHERE id = 70101")
        check(cursor.fetchone()[0], 1)
        c.execute("DELETE FROM kv WHERE id = 70101")


def many():
    with connect() as c, c.cursor() as cursor:
        cursor.executemany("INSERT INTO kv VALUES (%s, %s)", [(70200 + i, i) for i in range(100)])
        check(one(c, "SELECT sum(value) FROM kv WHERE id BETWEEN 70200 AND 70299"), 4950)
        cursor.execute("DELETE FROM kv WHERE id BETWEEN 70200 AND 70299")
        check(cursor.rowcount, 100)


def copies():
    with connect() as c, c.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, name FROM numbers WHERE id <= 100 ORDER BY id) TO STDOUT") as copy:
            rows = list(copy.rows())
        check(rows[99], ("100", "number 100"))
        with cursor.copy("COPY kv FROM STDIN") as copy:
            for i in range(5000):
                copy.write_row((71000 + i, i))
        check(one(c, "SELECT count(*) FROM kv WHERE id >= 71000 AND id < 76000"), 5000)
        c.rollback()
        try:
            with cursor.copy("COPY kv FROM STDIN") as copy:
                copy.write_row((1, 1))
            raise AssertionError("a duplicate key")
        except errors.UniqueViolation:
            c.rollback()
        check(one(c, "SELECT 'after'"), "after")


def cancels():
    with connect(autocommit=True) as c:
        for _ in range(3):
            threading.Timer(0.3, c.cancel).start()
            try:
                c.execute("SELECT pg_sleep(60)")
                raise AssertionError("it was not cancelled")
            except errors.QueryCanceled:
                pass
            check(one(c, "SELECT 'alive'"), "alive")


def error_texts():
    with connect(autocommit=True) as c:
        try:
            c.execute("SELECT id,\n nonsense FROM numbers")
        except errors.UndefinedColumn as error:
            check((error.sqlstate, error.diag.statement_position), ("42703", "13"))
        try:
            c.execute("INSERT INTO kv VALUES (1, 1)")
        except errors.UniqueViolation as error:
            check((error.diag.table_name, error.diag.constraint_name), ("kv", "kv_pkey"))


def cursors_and_notices():
    with connect() as c:
        with c.cursor(name="server_side") as cursor:
            cursor.itersize = 50
            cursor.execute("SELECT id FROM numbers ORDER BY id")
            check([row[0] for row in cursor], list(range(1, 1001)))
        heard = []
        c.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        check(one(c, "SELECT shout('hi')"), "HI")
        check(heard, ["shout: hi"])
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("LISTEN chat")
        speaker.execute("SELECT pg_notify('chat', 'hello')")
        for note in listener.notifies(timeout=20, stop_after=1):
            check((note.channel, note.payload), ("chat", "hello"))
            break
        else:
            raise AssertionError("no notification came")


def stateful(number):
    with connect(autocommit=True, application_name=f"client {number}") as c:
        c.execute(sql.SQL("SET work_mem = {}").format(f"{3001 + 2 * number}kB"))
        c.execute("SELECT set_config('my.number', %s, false)", [str(number)])
        for i in range(1, 11):
            check(one(c, "SHOW work_mem"), f"{3001 + 2 * number}kB")
            check(one(c, "SHOW application_name"), f"client {number}")
            check(one(c, "SELECT current_setting('my.number')"), str(number))
            check(one(c, "SELECT name FROM numbers WHERE id = %s", [i], prepare=True), f"number {i}")
            with c.transaction():
                c.execute("UPDATE kv SET value = %s WHERE id = %s", [i, 600 + number])
            check(one(c, "SELECT value FROM kv WHERE id = %s", [600 + number], prepare=True), i)


def fifty_over_five():
    with concurrent.futures.ThreadPoolExecutor(50) as threads:
        list(threads.map(stateful, range(50)))


for step in [transactions, prepared, pipelines, many, copies, cancels, error_texts, cursors_and_notices, fifty_over_five]:
    began = time.monotonic()
    step()
    print(f"psycopg: {step.__name__} ({time.monotonic() - began:.1f} s)")
