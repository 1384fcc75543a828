"""Queries drawn from a grammar: none is an error of ours, and each answer has the rows that are meant and no other.

`DICOMFLOW_FUZZ_QUERIES` says how many (400), `DICOMFLOW_FUZZ_SEED` from where.
"""

import json
import os
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
from archived import fill, invented_studies
from obstore.store import MemoryStore
from oracle import expected
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from starlette.types import Message
from web_archive import archive_over

from dicomflow.archive.web.access import WebAccess
from dicomflow.archive.web.app import create_archive
from dicomflow.catalog.engine import create_engine_for, migrate

QUERIES = int(os.environ.get("DICOMFLOW_FUZZ_QUERIES", "400"))
SEED = int(os.environ.get("DICOMFLOW_FUZZ_SEED", "1"))
TEXTS = (0x00100020, 0x00080050, 0x00081030, 0x00200010, 0x00100040)
NAMES = (0x00100010, 0x00080090)
DATES = (0x00080020, 0x00100030)
OF_SERIES = (0x00080060, 0x0008103E)
RUBBISH = (
    "%",
    "\0",
    "\\",
    "'",
    '"',
    "--",
    "\ud83d\ude00",
    "٣",
    "1" * 70,
    "*" * 40,
    "-",
    "=",
    "^",
    ",",
    "NULL",
    "%s",
    "{}",
)
PATHS = {"study": "/studies", "series": "/series", "instance": "/instances"}


def _text(source: random.Random, tag: int, objects: list[Dataset]) -> str:
    """Return a value that some object has, or a pattern of it, or something near."""
    value = str(getattr(source.choice(objects), keyword_for_tag(tag), "")) or "x"
    at = source.randint(0, max(0, len(value) - 1))
    return source.choice(
        [
            value,
            value[:at] + "*",
            "*" + value[at:],
            f"*{value[at : at + 3]}*",
            value[:at] + "?" + value[at + 1 :],
            value.swapcase(),
            "",
        ]
    )


def _date(source: random.Random) -> str:
    days = sorted(
        f"{source.choice([1960, 2026])}{source.randint(1, 12):02}{source.randint(1, 28):02}" for _ in range(2)
    )
    return source.choice([days[0], f"{days[0]}-", f"-{days[1]}", f"{days[0]}-{days[1]}", f"{days[1]}-{days[0]}"])


def _keys(source: random.Random, level: str, objects: list[Dataset]) -> dict[int, Any]:
    keys: dict[int, Any] = {}
    for _ in range(source.randint(0, 3)):
        draw: Any = source.choice(
            [
                lambda: (tag := source.choice(TEXTS), _text(source, tag, objects)),
                lambda: (tag := source.choice(NAMES), _text(source, tag, objects)),
                lambda: (source.choice(DATES), _date(source)),
                lambda: (0x00080061, source.choice(["CT", "M?", "MR\\SR", "*R"])),
                lambda: (0x0020000D, "\\".join(str(source.choice(objects).StudyInstanceUID) for _ in range(3))),
                lambda: (0x00081032, {0x00080100: source.choice(["T-D3000", "T*", "x"]), 0x00080104: "Head"}),
                lambda: (
                    (source.choice(OF_SERIES), _text(source, 0x0008103E, objects))
                    if level != "study"
                    else (0x00080061, "CT")
                ),
            ]
        )
        tag, value = draw()
        keys[tag] = value
    return keys


def _query(source: random.Random, keys: dict[int, Any]) -> str:
    parts = []
    for tag, value in keys.items():
        name = source.choice([keyword_for_tag(tag), f"{tag:08X}"])
        if isinstance(value, dict):
            parts += [f"{name}.{inner:08X}={quote(text)}" for inner, text in value.items()]
        else:
            parts.append(f"{name}={quote(value, safe='')}")
    source.shuffle(parts)
    return "&".join(parts)


def _spoilt(source: random.Random, query: str) -> str:
    """Return a query with something in it that does not belong there."""
    rubbish = quote(source.choice(RUBBISH), safe="", errors="surrogatepass")
    at = source.randint(0, len(query))
    return source.choice(
        [query[:at] + rubbish + query[at:], query + "&" + rubbish, query + "&limit=" + rubbish, query + "&%FF=%zz"]
    )


async def _get(app: Any, path: str, query: str) -> tuple[int, bytes]:
    """Ask the application itself: sockets would be most of the time."""
    sent: list[Message] = []

    async def receive() -> Message:
        await anyio.sleep_forever()  # the client stays
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
    }
    scope |= {
        "query_string": query.encode("ascii", "replace"),
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
    }
    await app(scope | {"server": ("localhost", 80), "client": ("127.0.0.1", 1)}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_drawn_queries_give_what_is_meant(tmp_path: Path):
    """No query is a 500; a good one has exactly the rows that the objects give, a spoilt one those or a reason."""
    engine = create_engine_for(f"sqlite:///{tmp_path / 'catalog.db'}")
    migrate(engine)
    objects = invented_studies(25, seed=SEED)
    fill(engine, MemoryStore(), objects)
    app = create_archive(archive_over(engine), WebAccess())
    source = random.Random(SEED)

    async def ask_all() -> None:
        for number in range(QUERIES):
            level = source.choice(list(PATHS))
            keys, is_fuzzy = _keys(source, level, objects), source.random() < 0.3
            query = _query(source, keys) + ("&fuzzymatching=true" if is_fuzzy else "")
            if number % 3 == 0:
                status, body = await _get(app, PATHS[level], _spoilt(source, query))
                assert status in {200, 400}, (SEED, number, query, body)
                assert isinstance(json.loads(body), list) if status == 200 else body
                continue
            status, body = await _get(app, PATHS[level], query)
            assert 200 == status, (SEED, number, query, body)
            unique = {"study": "0020000D", "series": "0020000E", "instance": "00080018"}[level]
            found = [row[unique]["Value"][0] for row in json.loads(body)]
            assert expected(objects, level, keys, is_fuzzy=is_fuzzy) == set(found), (SEED, number, query, is_fuzzy)
            assert len(found) == len(set(found))

    anyio.run(ask_all)
    engine.dispose()
