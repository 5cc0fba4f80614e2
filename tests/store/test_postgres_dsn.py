"""A DSN is read as libpq reads it, and its password is shown nowhere."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import Channel, Group, Message
from tailrace.store import store_postgres
from tailrace.store.postgres.dsn import parsed


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSERVICE", raising=False)


@pytest.mark.parametrize(
    ("dsn", "shown", "options"),
    [
        ("", "postgresql:///", {}),
        ("postgresql://", "postgresql:///", {}),
        (
            "postgres://u:p@h:5433/d",
            "postgresql://u@h:5433/d",
            {"user": "u", "password": "p", "host": ["h"], "port": 5433, "database": "d"},
        ),
        (
            "postgresql://u%40x:a%2Fb%40c%3F@h/d%20e",
            "postgresql://u@x@h/d e",
            {"user": "u@x", "password": "a/b@c?", "host": ["h"], "database": "d e"},
        ),
        (
            "postgresql://u:a@b@h/d",
            "postgresql://u@h/d",
            {"user": "u", "password": "a@b", "host": ["h"], "database": "d"},
        ),
        (
            "postgresql://[::1]:5433,h2:5434/d?target_session_attrs=read-write",
            "postgresql://[::1]:5433,h2:5434/d",
            {
                "host": ["::1", "h2"],
                "port": [5433, 5434],
                "database": "d",
                "dsn": "postgresql://?target_session_attrs=read-write",
            },
        ),
        (
            "postgresql:///d?host=/run/pg&port=5433&user=u&password=p",
            "postgresql://u@/run/pg:5433/d",
            {
                "host": ["/run/pg"],
                "port": 5433,
                "user": "u",
                "password": "p",
                "database": "d",
            },
        ),
        (
            "postgresql://u@%2Frun%2Fpg/d?sslmode=verify-full&sslrootcert=/a b&application_name=x",
            "postgresql://u@/run/pg/d",
            {
                "user": "u",
                "host": ["/run/pg"],
                "database": "d",
                "dsn": "postgresql://?sslmode=verify-full&sslrootcert=%2Fa%20b",
                "server_settings": {"application_name": "x"},
            },
        ),
        (
            r"host=h  port = 5433 user='a b' password='p \'q\\' dbname=d keepalives=1",
            "postgresql://a b@h:5433/d",
            {
                "host": ["h"],
                "port": 5433,
                "user": "a b",
                "password": r"p 'q" + "\\",
                "database": "d",
            },
        ),
        (
            "service=prod passfile=/x/pgpass",
            "postgresql:/// of service prod",
            {"dsn": "postgresql://?service=prod", "passfile": "/x/pgpass"},
        ),
    ],
)
def test_what_a_dsn_says_reaches_the_driver(dsn: str, shown: str, options: dict[str, Any]) -> None:
    found = parsed(dsn)
    assert (str(found), found.options) == (shown, options)


def test_the_connect_timeout_is_seconds() -> None:
    assert parsed("postgresql://h/?connect_timeout=3").connect_timeout == 3
    assert parsed("connect_timeout=0").connect_timeout is None


SECRET = "hush"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:a/{SECRET}@h/d",
        f"postgresql://u:12/{SECRET}@h/d",
        f"postgresql://u:1?{SECRET}@h/d",
        f"postgresql://u:1?{SECRET}=@h/d",
        f"postgresql://u:{SECRET}@h:{SECRET}/d",
        f"postgresql://u:{SECRET}",
        f"postgresql://u:{SECRET}@::1:5432/d",
        f"mysql://u:{SECRET}@h/d",
        SECRET,
        f"postgresql://h/d?{SECRET}!",
        f"host=h password={SECRET} 'x",
        f"host=h password='{SECRET}",
        f"host=h port={SECRET}",
        f"host=h password={SECRET} channel_binding=require",
        [SECRET],
        SECRET.encode(),
    ],
)
def test_a_dsn_that_cannot_be_read_is_refused_without_its_password(dsn: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="dsn") as raised:
        store_postgres(dsn)
    assert SECRET not in "".join(traceback.format_exception(raised.value)).replace(
        f"{SECRET!r}", ""
    ).replace("store_postgres(dsn)", "")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1))
def test_any_password_passes_in_quotes_and_is_not_shown(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    found = parsed(f"user=u password='{quoted}'")
    assert found.options["password"] == password
    assert repr(found) == repr(parsed("user=u password='other'"))


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://u:{SECRET}@h/d",
        f"postgresql://h/d?password={SECRET}&sslpassword={SECRET}",
        f"host=h user=u password='{SECRET}'",
    ],
)
async def test_no_repr_and_no_graph_shows_the_password(dsn: str) -> None:
    actor = store_postgres(dsn)
    rows = Channel[Message[str]](name="rows")
    async with Group(on_exit="cancel") as go:
        stage = go(actor, rows)
        texts = [
            repr(actor),
            repr(stage),
            str(go.graph()),
            repr(go.graph()),
            repr(actor._make_target()),
        ]
    assert not [text for text in texts if SECRET in text]
