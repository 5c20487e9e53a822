"""100,000 generated literals and binary messages of the type: none crashes a backend, none gives a wrong value.

Every message, valid or not, has a model in a few lines of Python: the bytes that the value must have, or None where it
must be refused. What is accepted survives the way through text and through the binary form bit for bit.
"""

from __future__ import annotations

import ctypes
import random
import re
import struct

import pytest
from psycopg import pq

MAX_DIMS = 16_000
MESSAGES_OF_EACH_FORM = 50_000
SEED = 20_260_101

TEXT, BINARY = 0, 1
# What a refused literal or message raises: data exceptions of the type, and the protocol's own.
REFUSALS = {
    TEXT: {"22P02", "22000", "22003", "54000"},
    BINARY: {"22000", "54000", "08P01", "22P03"},
}

_strtof = ctypes.CDLL(None).strtof
_strtof.restype, _strtof.argtypes = ctypes.c_float, [ctypes.c_char_p, ctypes.c_void_p]

SPACE = rb"[ \t\n\r\v\f]*"
# What C's strtof reads and what is finite. Each text has one way to match, so that long ones take no longer than they
# must.
NUMBER = rb"[+-]?(?:0[xX](?:[0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?" \
         rb"|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
LITERAL = re.compile(SPACE + rb"\[" + SPACE + NUMBER + rb"(?:" + SPACE + rb"," + SPACE + NUMBER + rb")*" + SPACE + rb"\]"
                     + SPACE)
LARGEST = 3.4028234663852886e38


def wire(elements) -> bytes | None:
    """The binary form of these elements; None where they are no vector."""
    if not 1 <= len(elements) <= MAX_DIMS or not all(abs(element) <= LARGEST for element in elements):
        return None
    return struct.pack(f">HH{len(elements)}f", len(elements), 0, *elements)


def value_of_literal(literal: bytes) -> bytes | None:
    if not LITERAL.fullmatch(literal):
        return None
    return wire([_strtof(element.strip(), None) for element in literal.strip(b" \t\n\r\v\f[]").split(b",")])


def value_of_message(message: bytes) -> bytes | None:
    if len(message) < 8 or len(message) % 4:
        return None
    dims, unused, *elements = struct.unpack(f">HH{len(message) // 4 - 1}f", message)
    return message if unused == 0 and dims == len(elements) and wire(elements) else None


# -- generators -------------------------------------------------------------------------------------------------------

def some_dims(rng) -> int:
    return rng.choice((1, 1, 2, 3, rng.randint(1, 20), rng.randint(1, 200)))


def some_bits(rng) -> int:
    """Any float4, and those at the edges more often: zeros, subnormals, the largest, infinities, NaNs."""
    edges = (0, 1, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF)
    bits = rng.choice(edges) if rng.random() < 0.2 else rng.getrandbits(31)
    if bits >= 0x7F800000:
        bits -= 0x00800000
    return bits | rng.getrandbits(1) << 31


def some_number(rng) -> bytes:
    value = struct.unpack(">f", some_bits(rng).to_bytes(4, "big"))[0]
    digits = "".join(rng.choices("0123456789", k=rng.choice((1, 2, 9, 40))))
    return rng.choice((
        lambda: repr(value), lambda: f"{value:.9g}", lambda: f"{value:.3e}", lambda: value.hex(),
        lambda: str(rng.randint(-10**6, 10**6)), lambda: f"{rng.random():.17f}", lambda: f"{digits}.", lambda: f".{digits}",
        lambda: f"+{digits}E{rng.randint(-60, 30)}", lambda: f"-0X{rng.getrandbits(24):X}P{rng.randint(-160, 100)}",
        lambda: f"0x.{rng.getrandbits(16):x}", lambda: f"{digits}e-{digits[:5]}",
    ))().encode()


def valid_literal(rng) -> bytes:
    def space() -> bytes:
        return bytes(rng.choices(b" \t\n\r\v\f", k=rng.randint(1, 3))) if rng.random() < 0.1 else b""

    elements = (space() + some_number(rng) + space() for _ in range(some_dims(rng)))
    return space() + b"[" + b",".join(elements) + b"]" + space()


def damaged(rng, message: bytes, alphabet: bytes) -> bytes:
    """One to three bytes lost, added, changed or cut off."""
    message = bytearray(message)
    for _ in range(rng.randint(1, 3)):
        place = rng.randint(0, len(message))
        match rng.randrange(4):
            case 0: del message[place:place + 1]
            case 1: message.insert(place, rng.choice(alphabet))
            case 2: message[place:place + 1] = bytes([rng.choice(alphabet)])
            case 3 if rng.random() < 0.3: del message[place:]
    return bytes(message)


def hostile_literal(rng) -> bytes:
    count = rng.choice((1, 10, 1000, 20_000))
    return rng.choice((
        lambda: bytes(rng.choices(range(1, 256), k=rng.randint(0, 60))),
        lambda: bytes(rng.choices(b"[],.+-eExXpPnaif0123456789 ", k=rng.randint(0, 60))),
        lambda: b"[" * count, lambda: b"[" + b"," * count, lambda: b"[" + b"1" * count + b"]",
        lambda: b"[0." + b"0" * count + b"1e" + str(count).encode() + b"]", lambda: b"[1e" + b"9" * count + b"]",
        lambda: b"[-1e-" + b"9" * count + b"]", lambda: b"[0x" + b"f" * count + b"p-" + str(4 * count).encode() + b"]",
        lambda: b"[" + rng.choice((b"nan", b"NaN(0x1)", b"inf", b"-Infinity", b"1e39", b"-0x1p128", b"nan(" + b"1" * count))
        + b"]",
        lambda: b"[" + b"1," * (MAX_DIMS + rng.randint(-2, 1)) + b"1]" if rng.random() < 0.02 else b"[1\xc2\xa0]",
    ))()


def valid_message(rng) -> bytes:
    dims = some_dims(rng)
    return struct.pack(f">HH{dims}I", dims, 0, *(some_bits(rng) for _ in range(dims)))


def hostile_message(rng) -> bytes:
    body = rng.randbytes(rng.choice((0, 1, 4, 8, 12, rng.randint(0, 200))))
    dims = rng.choice((0, 1, len(body) // 4, MAX_DIMS, MAX_DIMS + 1, 0x7FFF, 0x8000, 0xFFFF, rng.getrandbits(16)))
    unused = rng.choice((0, 0, 0, 1, 0x8000, rng.getrandbits(16)))
    return rng.choice((
        lambda: body, lambda: struct.pack(">HH", dims, unused) + body,
        lambda: struct.pack(">HHI", 1, unused, rng.choice((0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF))),
        lambda: struct.pack(">HH", MAX_DIMS, 0) + bytes(4 * MAX_DIMS) if rng.random() < 0.02 else body[:3],
    ))()


def messages(form: int):
    """Valid, near-valid and hostile ones, the same at every run."""
    rng = random.Random(SEED + form)
    for _ in range(MESSAGES_OF_EACH_FORM):
        kind = rng.random()
        if form == TEXT:
            alphabet = b"[]{}(),.;+-_eExXpPnNaAiIfF0123456789 \t\n\v\"'\\\x01\x7f\x80\xa0\xc3\xff"
            yield (valid_literal(rng) if kind < 0.4 else hostile_literal(rng) if kind > 0.8
                   else damaged(rng, valid_literal(rng), alphabet))
        else:
            yield (valid_message(rng) if kind < 0.4 else hostile_message(rng) if kind > 0.7
                   else damaged(rng, valid_message(rng), bytes(range(256))))


# -- the test ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def raw(cluster):
    """libpq's connection to a database whose encoding takes any byte, with the statement `read` prepared."""
    cluster.execute("CREATE DATABASE fuzz ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with cluster.connect("fuzz") as db:
        db.execute("CREATE EXTENSION vekter")
        # Half of the messages are refused; the log is for crashes.
        db.execute("SET log_min_messages = fatal")
        prepared = db.pgconn.prepare(
            b"read", b"SELECT vector_send($1::vector), $1::text, vector_send(($1::text)::vector)")
        assert prepared.status == pq.ExecStatus.COMMAND_OK, prepared.error_message
        yield db.pgconn
    cluster.execute("DROP DATABASE fuzz")


@pytest.mark.parametrize("form, value_of", [(TEXT, value_of_literal), (BINARY, value_of_message)],
                         ids=["literals", "binary messages"])
def test_every_message_gives_its_value_or_a_clean_error(raw, form, value_of):
    backend, accepted = raw.backend_pid, 0
    for message in messages(form):
        result = raw.exec_prepared(b"read", [message], [form], BINARY)
        expected, shown = value_of(message), message[:200]
        if result.status == pq.ExecStatus.TUPLES_OK:
            sent, text, through_text = (result.get_value(0, column) for column in range(3))
            assert sent == expected, shown
            assert through_text == sent, (shown, text[:200])
            assert form == BINARY or read_binary(raw, sent) == sent, shown
            accepted += 1
        else:
            state = result.error_field(pq.DiagnosticField.SQLSTATE)
            assert state is not None and state.decode() in REFUSALS[form], (shown, result.error_message)
            assert expected is None, (shown, result.error_message)
    assert raw.status == pq.ConnStatus.OK and raw.backend_pid == backend
    # A generator that makes only good or only bad messages would test little.
    assert 0.35 < accepted / MESSAGES_OF_EACH_FORM < 0.75


def read_binary(raw, message: bytes) -> bytes | None:
    return raw.exec_prepared(b"read", [message], [BINARY], BINARY).get_value(0, 0)
