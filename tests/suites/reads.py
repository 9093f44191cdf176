#!/usr/bin/env python3
"""PostgreSQL's regression suite as a test of reads on replicas.

    reads.py SOURCES DIRECT_URL PGWEIR_URL ADMIN_URL [TEST...]      (see README.md beside it)

Each test's statements run in their order: what is no read runs directly on the primary; then, once every replica has replayed
it, each read runs directly and through pgweir, as a simple and as an extended query, and the answers must be the same: rows,
column names and types, notices, every field of an error. Prints each difference, and at the end how many reads replicas served.
"""
import os, re, sys, time, urllib.request
from psycopg import pq

READ = re.compile(r"\s*\(*\s*(select|with|values|table|show)\b", re.I)
COPY_OUT = re.compile(r"\s*copy\b.*\bto\s+stdout\b", re.I | re.S)
COPY_IN = re.compile(r"\s*copy\b.*\bfrom\s+stdin\b", re.I | re.S)
SETTING = re.compile(r"\s*(set(?!\s+(local|transaction|constraints))|reset)\b", re.I)
DATA = re.compile(r"\s*(insert|update|delete|merge|copy|analyze|vacuum|begin|commit|rollback|end|savepoint)\b", re.I)
MAKES = re.compile(r"\binto\b", re.I)
TOKEN = re.compile(
    r"--[^\n]*|/\*|\$([A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$|[eE]'(?:[^'\\]|\\.|'')*'|'[^']*'|\"[^\"]*\"|[()\\;]|[\w\u0080-\uffff]+|.",
    re.S,
)
# A session's own objects would be unknown to the two that read.
TEMPORARY = re.compile(r"^(\s*create\s+(?:or\s+replace\s+)?)(?:local\s+|global\s+)?temp(?:orary)?\s+", re.I)
# Answers that tell of the process, the clock, or the work that was done so far.
OWN = re.compile(r"pg_stat|pg_backend_pid|pg_locks|pg_cursors|prepared_|pg_backend_memory|pg_file_settings|pg_hba|pg_ident", re.I)


def statements(text):
    """(SQL, data of a COPY) in order; psql's own commands are followed as far as they make variables, and left out."""
    variables, at, start, depth, body = {}, 0, 0, 0, 0
    out = lambda end: interpolate(text[start:end], variables).strip()
    while at < len(text):
        token = TOKEN.match(text, at)
        word, at = token.group(), token.end()
        if word == "/*":
            nested = 1
            while nested and at < len(text):
                part = re.compile(r"/\*|\*/").search(text, at)
                at, nested = (part.end(), nested + (1 if part.group() == "/*" else -1)) if part else (len(text), 0)
        elif word.startswith("$") and word.endswith("$") and len(word) > 1:
            at = max(text.find(word, at), at - len(word)) + len(word)
        elif word == "\\":
            line = text[at:].split("\n", 1)[0]
            at += len(line)
            command(line, variables)
            if out(at - len(line) - 1) and re.match(r"g|crosstab|bind", line):
                yield out(at - len(line) - 1), None
            start, depth, body = at, 0, 0
        elif word in "()" and word:
            depth += 1 if word == "(" else -1
        elif word.lower() == "atomic":
            body += 1
        elif word.lower() == "case" and body:
            body += 1
        elif word.lower() == "end" and body:
            body -= 1
        elif word == ";" and depth <= 0 and not body:
            sql, start, depth = out(at - 1), at, 0
            data = None
            if COPY_IN.match(sql):
                begin = text.find("\n", at) + 1
                end = text.find("\n\\.", begin - 1)
                data, at = text[begin : end + 1], end + 3
                start = at
            if sql:
                yield sql, data


def command(line, variables):
    words = line.split()
    if words[:1] == ["getenv"]:
        variables[words[1]] = os.environ.get(words[2], "")
    elif words[:1] == ["set"] and len(words) > 2:
        parts = re.findall(r":\w+|'[^']*'|\S+", line.split(None, 2)[2])
        variables[words[1]] = "".join(variables.get(part[1:], part) if part[0] == ":" else part.strip("'") for part in parts)


def interpolate(sql, variables):
    def value(match):
        name = match.group(1).strip("'\"")
        quote = match.group(1)[0] if match.group(1)[0] in "'\"" else ""
        return match.group() if name not in variables else quote + variables[name] + quote
    return re.sub(r"(?<!:):('\w+'|\"\w+\"|[A-Za-z_]\w*)", value, sql)


class Link:
    def __init__(self, url, options=""):
        options += " -c statement_timeout=20s -c timezone=PST8PDT -c datestyle=Postgres,MDY -c intervalstyle=postgres_verbose"
        self.pg = pq.PGconn.connect(f"{url} options='{options}'".encode())
        assert self.pg.status == pq.ConnStatus.OK, self.pg.error_message
        self.pg.exec_(b"SET client_min_messages = notice")
        self.notices = []
        self.pg.notice_handler = lambda notice: self.notices.append(notice.error_field(pq.DiagnosticField.MESSAGE_PRIMARY))

    def run(self, sql, data=None, extended=False):
        self.notices = []
        text = sql.encode()
        result = self.pg.exec_params(text, []) if extended else self.pg.exec_(text)
        if result.status == pq.ExecStatus.COPY_IN:
            self.pg.put_copy_data((data or "").encode())
            self.pg.put_copy_end()
            result = self.pg.get_result()
            while self.pg.get_result():
                pass
        rows = [tuple(result.get_value(row, column) for column in range(result.nfields)) for row in range(result.ntuples)]
        while result.status == pq.ExecStatus.COPY_OUT:
            size, row = self.pg.get_copy_data(0)
            if size <= 0:
                result = self.pg.get_result()
                while self.pg.get_result():
                    pass
                break
            rows.append(bytes(row))
        shape = [(result.fname(column), result.ftype(column)) for column in range(result.nfields)]
        error = [result.error_field(field) for field in pq.DiagnosticField if field.name not in ("SOURCE_FILE", "SOURCE_LINE")]
        return {"status": pq.ExecStatus(result.status).name, "shape": shape, "rows": rows, "error": error, "notices": self.notices}

    def value(self, sql):
        rows = self.run(sql)["rows"]
        return rows[0][0].decode() if rows and rows[0] and rows[0][0] is not None else ""


def served(admin):
    """Statements so far by route, and how often pgweir read a catalog."""
    counted = {"primary": 0, "replica": 0, "reloads": 0}
    for line in urllib.request.urlopen(admin + "/metrics").read().decode().splitlines():
        found = re.match(r'pgweir_(?:statements_total\{.*route="(primary|replica)"|catalog_(reload)s_total).* (\d+)$', line)
        if found:
            counted[found.group(1) or "reloads"] += int(found.group(3))
    return counted


class Suite:
    def __init__(self, direct, through, admin):
        self.urls, self.admin = (direct, through), admin
        self.reads = self.answered = self.differences = 0
        self.watch = Link(direct)
        assert self.watch.value("SELECT count(*) FROM pg_stat_replication") != "0", "the primary has replicas"

    def caught_up(self, changed_catalog):
        lsn = self.watch.value("SELECT pg_current_wal_flush_lsn()")
        behind = f"SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NULL OR replay_lsn < '{lsn}'"
        until = time.monotonic() + 10
        while self.watch.value(behind) != "0" and time.monotonic() < until:
            time.sleep(0.005)
        # pgweir notices others' DDL by asking for it: routing.catalog_poll should be short here.
        known, until = served(self.admin)["reloads"], time.monotonic() + 1
        while changed_catalog and served(self.admin)["reloads"] == known and time.monotonic() < until:
            time.sleep(0.03)

    def play(self, name, text):
        direct, through = self.urls
        maker, twin, front = Link(direct), Link(direct, "-c default_transaction_read_only=on"), Link(through)
        wrote = ddl = True
        before, reads = served(self.admin), self.reads
        for sql, data in statements(text):
            idle = maker.pg.transaction_status == pq.TransactionStatus.IDLE
            is_read = (READ.match(sql) or COPY_OUT.match(sql)) and not MAKES.search(sql)
            if idle and SETTING.match(sql) and "transaction_read_only" not in sql.lower():
                self.compare(name, sql, maker.run(sql) and twin.run(sql), front.run(sql))
                continue
            answer = None
            if idle and is_read and not OWN.search(sql):
                if wrote:
                    self.caught_up(ddl)
                wrote = ddl = False
                answer = twin.run(sql)
            if answer is None or answer["error"][2] == b"25006":
                maker.run(TEMPORARY.sub(r"\1", sql), data)
                wrote, ddl = True, ddl or not (DATA.match(sql) or READ.match(sql))
                continue
            for extended in (False, True):
                answer = twin.run(sql, extended=extended)
                got = front.run(sql, extended=extended)
                self.reads += 1
                self.answered += not answer["error"][2]
                if answer != got and twin.run(sql, extended=extended) == answer:
                    self.compare(name, sql, answer, got)
        after = served(self.admin)
        replica, primary = (after[route] - before[route] for route in ("replica", "primary"))
        print(f"{name}: {self.reads - reads} reads; statements on replicas {replica}, on the primary {primary}", flush=True)

    def compare(self, name, sql, expected, got):
        if expected == got:
            return
        self.differences += 1
        print(f"--- {name}: {' '.join(sql.split())[:300]}")
        for part in expected:
            if expected[part] != got[part]:
                print(f"    {part}: {str(expected[part])[:400]}\n    pgweir: {str(got[part])[:400]}")


def main():
    sources, direct, through, admin, *tests = sys.argv[1:]
    folder = f"{sources}/src/test/regress"
    os.environ.update(PG_ABS_SRCDIR=folder, PG_ABS_BUILDDIR=folder, PG_LIBDIR=folder, PG_DLSUFFIX=".so")
    schedule = [word for line in open(f"{folder}/parallel_schedule") if line.startswith("test:") for word in line.split()[1:]]
    suite, start = Suite(direct, through, admin), served(admin)
    for name in tests or schedule:
        try:
            suite.play(name, open(f"{folder}/sql/{name}.sql", encoding="utf-8", errors="surrogateescape").read())
        except (AssertionError, UnicodeError, OSError) as error:
            print(f"{name}: left out: {error}", flush=True)
    end = served(admin)
    replica, primary = (end[route] - start[route] for route in ("replica", "primary"))
    print(f"reads {suite.reads}, of which {suite.answered} without an error; statements on replicas {replica}, on the primary {primary}")
    print(f"differences {suite.differences}")
    sys.exit(1 if suite.differences else 0)


main()
