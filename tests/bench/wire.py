"""A small PostgreSQL client for what pgbench cannot do: thousands of idle sessions, large results taken as fast as they
come, and reads whose age is to be known. It logs in with SCRAM or trust and speaks simple queries only."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import struct

USER, PASSWORD, DATABASE = "app", "secret", "app"


class ServerError(Exception):
    """An ErrorResponse, or the end of the connection (SQLSTATE 08006, as libpq's clients name it)."""

    def __init__(self, sqlstate, message):
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate


class Session:
    """One connection. Not for two threads at once."""

    def __init__(self, port, user=USER, password=PASSWORD, database=DATABASE, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        try:
            self.log_in(user, password, database)
        except OSError as broken:
            self.close()
            raise ServerError("08006", str(broken)) from broken
        except ServerError:
            self.close()
            raise

    def close(self):
        self.socket.close()

    def log_in(self, user, password, database):
        words = ["user", user, "database", database, ""]
        body = struct.pack("!i", 196608) + b"".join(word.encode() + b"\0" for word in words)
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        nonce = base64.b64encode(os.urandom(18)).decode()
        first, verifier = f"n=,r={nonce}", b""
        while True:
            kind, body = self.message()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (step,) = struct.unpack_from("!i", body)
            if step == 10:
                initial = ("n,," + first).encode()
                self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(initial)) + initial)
            elif step == 11:
                answer, verifier = scram_proof(password, first, nonce, body[4:].decode())
                self.send(b"p", answer)
            elif step == 12 and not hmac.compare_digest(body[4:], b"v=" + verifier):
                raise ServerError("28P01", "the server does not know the password either")
            elif step not in (0, 11, 12):
                raise ServerError("28000", f"authentication {step} is not supported here")

    def send(self, kind, body):
        self.socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def message(self):
        """The next message; an ErrorResponse is raised unless a query is under way, which raises it at its end."""
        self.fill(5)
        (length,) = struct.unpack_from("!i", self.received, 1)
        self.fill(length + 1)
        kind, body = bytes(self.received[:1]), bytes(self.received[5 : length + 1])
        del self.received[: length + 1]
        if kind == b"E":
            fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
            raise ServerError(fields.get(b"C", "?????"), fields.get(b"M", ""))
        return kind, body

    def fill(self, size):
        while len(self.received) < size:
            piece = self.socket.recv(65536)
            if not piece:
                raise ServerError("08006", "the connection was closed")
            self.received += piece

    def query(self, sql):
        """The rows of a simple query, as text."""
        rows, error = [], None
        try:
            self.send(b"Q", sql.encode() + b"\0")
            while True:
                try:
                    kind, body = self.message()
                except ServerError as told:
                    if told.sqlstate == "08006" or told.sqlstate.startswith("57P"):
                        raise
                    error = told
                    continue
                if kind == b"D":
                    rows.append(columns(body))
                elif kind == b"Z":
                    break
        except OSError as broken:
            raise ServerError("08006", str(broken)) from broken
        if error:
            raise error
        return rows

    def value(self, sql):
        return self.query(sql)[0][0]

    def swallow(self, sql, scratch):
        """Runs a query whose rows nobody looks at; returns how many bytes came. Only the end is recognized: nothing may
        follow ReadyForQuery, so that the last bytes of what came tell it."""
        self.send(b"Q", sql.encode() + b"\0")
        total, tail = 0, b""
        while tail != b"Z\0\0\0\5I":
            size = self.socket.recv_into(scratch)
            if not size:
                raise ServerError("08006", "the connection was closed")
            total += size
            tail = (tail + bytes(scratch[max(0, size - 6) : size]))[-6:]
        return total


def columns(body):
    """The values of a DataRow."""
    (count,) = struct.unpack_from("!h", body)
    at, row = 2, []
    for _ in range(count):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        row.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return row


@functools.lru_cache(maxsize=64)
def salted_password(password, salt, iterations):
    """4,096 rounds of hashing, once for each verifier: thousands of logins must not wait for their own client."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)


def scram_proof(password, first, nonce, challenge):
    """The client's final message and the server's signature (RFC 5802, section 3)."""
    parts = dict(part.split("=", 1) for part in challenge.split(","))
    if not parts["r"].startswith(nonce):
        raise ServerError("28P01", "the server answered another client's nonce")
    salted = salted_password(password, base64.b64decode(parts["s"]), int(parts["i"]))
    final = f"c=biws,r={parts['r']}"
    signed = f"{first},{challenge},{final}".encode()

    def sign(key, text):
        return hmac.digest(key, text, "sha256")

    client = sign(salted, b"Client Key")
    signature = sign(hashlib.sha256(client).digest(), signed)
    proof = bytes(a ^ b for a, b in zip(client, signature))
    answer = f"{final},p={base64.b64encode(proof).decode()}".encode()
    return answer, base64.b64encode(sign(sign(salted, b"Server Key"), signed))
