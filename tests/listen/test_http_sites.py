"""Which sites' pages may send to a server, and for which hosts it answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tailrace import Channel, Group, Message, Receiver
from tailrace.listen import HttpServer, listen_http

ANY = "127.0.0.1:0"
Headers = dict[str, str]

OWN: list[Headers] = [
    {},
    {"host": "a.test", "origin": "http://a.test"},
    {"host": "A.test", "origin": "HTTP://a.TEST"},
    {"host": "a.test:80", "origin": "http://a.test"},
    {"host": "a.test", "origin": "http://a.test:80"},
    {"host": "a.test:8080", "origin": "http://a.test:8080"},
    {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"},
    {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
    {"host": "[::1]", "origin": "http://[::1]:80"},
    {"host": "a.test", "sec-fetch-site": "same-origin"},
    {"host": "a.test", "sec-fetch-site": "same-site"},
    {"host": "a.test", "sec-fetch-site": "none"},
    {"host": "a.test", "origin": "http://a.test", "sec-fetch-site": "same-origin"},
    # TLS ended at a proxy: the browser says that it is the same.
    {"host": "a.test", "origin": "https://a.test", "sec-fetch-site": "same-origin"},
]
FOREIGN: list[Headers] = [
    {"host": "a.test", "origin": "http://b.test"},
    {"host": "a.test", "origin": "http://a.test.b.test"},
    {"host": "a.test", "origin": "http://b.a.test"},
    {"host": "a.test", "origin": "https://a.test"},
    {"host": "a.test:443", "origin": "https://a.test"},
    {"host": "a.test", "origin": "http://a.test:8080"},
    {"host": "a.test:8080", "origin": "http://a.test"},
    {"host": "a.test:8080", "origin": "http://a.test:8081"},
    {"host": "127.0.0.1", "origin": "http://localhost"},
    {"host": "[::1]:8080", "origin": "http://[::2]:8080"},
    {"host": "a.test", "origin": "null"},
    {"host": "a.test", "origin": ""},
    {"host": "a.test", "origin": "a.test"},
    {"host": "a.test", "origin": "http://a.test/"},
    {"host": "a.test", "origin": "file://"},
    {"host": "a.test", "origin": "http://a.test, http://b.test"},
    {"host": "a.test", "sec-fetch-site": "cross-site"},
    {"host": "a.test", "sec-fetch-site": "Cross-Site"},
    {"host": "a.test", "origin": "http://b.test", "sec-fetch-site": "same-origin"},
    {"host": "a.test", "origin": "http://b.test", "sec-fetch-site": "cross-site"},
    {"host": "a.test", "origin": "http://b.test", "sec-fetch-site": "same-site"},
]


async def ack(inbox: Receiver[Message[Any]]) -> None:
    async for message in inbox:
        message.ack()


async def statuses(serve: Any, asked: list[Headers], **options: Any) -> list[int]:
    """What each hears, by the server's own socket; and by its app the same."""
    heard = []
    listener = listen_http(ANY, "/incoming", **options)
    async with serve(listener) as service, await service.connect() as client:
        for headers in asked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            host = "" if "host" in headers else "host: x\r\n"
            client.say(f"GET /incoming?data=1 HTTP/1.1\r\n{host}{lines}\r\n")
            heard.append((await client.hear()).status)
    server = HttpServer(None, **options)
    app = Starlette(routes=[Mount("/in", server.app)])
    async with Group() as go:
        channel = Channel[Message[Any]](name="to_ack")
        go(server.listen("/incoming"), channel)
        go(ack, channel)
        await server.ready()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as mounted:
            answers = [await mounted.get("/in/incoming?data=1", headers=h) for h in asked]
        go.drain()
    assert [answer.status_code for answer in answers] == heard
    return heard


async def test_a_servers_own_pages_and_programs_may_send(serve: Any) -> None:
    assert await statuses(serve, OWN) == [200] * len(OWN)


async def test_pages_of_other_sites_may_not(serve: Any) -> None:
    heard = await statuses(serve, FOREIGN)
    assert [h for h, s in zip(FOREIGN, heard, strict=True) if s != 403] == []


async def test_all_may_where_every_origin_is_allowed(serve: Any) -> None:
    asked = OWN + FOREIGN
    assert await statuses(serve, asked, origins="*") == [200] * len(asked)
    assert await statuses(serve, asked, origins=["http://c.test", "*"]) == [200] * len(asked)


async def test_named_origins_may_and_no_others(serve: Any) -> None:
    asked = [
        ({"origin": "https://app.test", "sec-fetch-site": "cross-site"}, 200),
        ({"origin": "https://app.test"}, 200),
        ({"origin": "HTTPS://APP.TEST:443"}, 200),
        ({"origin": "http://app.test"}, 403),
        ({"origin": "https://app.test:8443"}, 403),
        ({"origin": "https://x.app.test"}, 403),
        ({"origin": "https://evil.test"}, 403),
        ({"origin": "http://[::1]:3000"}, 200),
        ({"origin": "http://by-name.test"}, 200),
        ({"origin": "https://by-name.test"}, 200),
        ({"origin": "https://by-name.test:444"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://x"}, 200),
    ]
    origins = ["https://app.test", "http://[::1]:3000", "by-name.test"]
    heard = await statuses(serve, [headers for headers, _ in asked], origins=origins)
    assert heard == [status for _, status in asked]
    assert await statuses(serve, [{"origin": "null"}], origins=["null"]) == [200]


async def test_only_the_hosts_that_are_named_are_answered_for(serve: Any) -> None:
    asked = [
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:8080"}, 200),
        ({"host": "[::1]:1"}, 200),
        ({"host": "a.test:8080"}, 200),
        ({"host": "a.test:8081"}, 403),
        ({"host": "a.test"}, 403),
        ({"host": "localhost.evil.test"}, 403),
        ({"host": "evil.test", "origin": "http://evil.test"}, 403),  # a name that points here
        ({"host": "127.0.0.1"}, 403),
    ]
    hosts = ["localhost", "[::1]", "a.test:8080"]
    heard = await statuses(serve, [headers for headers, _ in asked], hosts=hosts)
    assert heard == [status for _, status in asked]
    assert await statuses(serve, [h for h, _ in asked], hosts=["*"]) == [200] * len(asked)


async def test_the_port_that_the_scheme_implies_need_not_be_said(serve: Any) -> None:
    asked = [
        ({"host": "a.test"}, 200),  # what browsers send to port 80
        ({"host": "a.test:80"}, 200),
        ({"host": "a.test:"}, 200),
        ({"host": "a.test:8080"}, 403),
        ({"host": "b.test"}, 403),
        ({"host": "b.test:443"}, 200),
        ({"host": "[::1]"}, 200),
        ({"host": "[::1]:80"}, 200),
        ({"host": "[::1]:81"}, 403),
    ]
    hosts = ["a.test:80", "b.test:443", "[::1]:80"]
    heard = await statuses(serve, [headers for headers, _ in asked], hosts=hosts)
    assert heard == [status for _, status in asked]


async def test_a_target_that_names_its_host_is_for_that_host(serve: Any) -> None:
    listener = listen_http(ANY, "/incoming", hosts=["localhost"])
    async with serve(listener) as service, await service.connect() as client:
        for target, host, status in (
            ("http://localhost/incoming?data=1", "evil.test", 200),
            ("http://evil.test/incoming?data=1", "localhost", 403),
        ):
            client.say(f"GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")
            assert (await client.hear()).status == status
        client.say("GET /incoming?data=1 HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")  # no Host
        assert (await client.hear()).status == 403


async def test_a_foreign_page_makes_no_message(serve: Any, hold: Any) -> None:
    held = hold()
    async with serve(listen_http(ANY, "/incoming"), held) as service:
        answer = await service.post(
            "/incoming",
            b"data=1",
            origin="http://evil.test",
            content_type="application/x-www-form-urlencoded",
        )
        assert answer.text == "forbidden: a page of another site may not send to this server"
        assert service.server.statistics().in_flight == 0
    assert held.messages == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hosts": ["http://a"]}, ValueError),
        ({"hosts": ["a b"]}, ValueError),
        ({"hosts": [1]}, TypeError),
        ({"hosts": 1}, TypeError),
        ({"hosts": [""]}, TypeError),
        ({"origins": ["http://a/b"]}, ValueError),
        ({"origins": ["https://*.example.com"]}, ValueError),
        ({"origins": ["*.example.com"]}, ValueError),
        ({"hosts": ["*.example.com"]}, ValueError),
        ({"origins": ["//a"]}, ValueError),
        ({"origins": [None]}, TypeError),
        ({"origins": None}, TypeError),
        ({"origins": b"http://a"}, TypeError),
    ],
)
def test_what_is_no_host_and_no_origin_is_said_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        HttpServer(ANY, **options)


def test_a_pattern_that_could_never_match_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"'https://\*\.a\.com'.*no patterns.*name each site"):
        HttpServer(ANY, origins=["https://*.a.com"])


def test_the_short_form_needs_an_address() -> None:
    nowhere: Any = None
    with pytest.raises(TypeError, match=r"HttpServer\(None\)"):
        listen_http(nowhere, "/a")
