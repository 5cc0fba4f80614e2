"""Raw requests, and what each must hear: statuses in order, and whether the connection goes on.

Every request that is taken is for ``/incoming`` and carries the field ``data=ok``. A request that
could be read in two ways, by a proxy in front and by this server, hears 400 and ends its
connection, so that what follows cannot be smuggled past the proxy.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    name: str
    said: bytes
    statuses: tuple[int, ...]
    goes_on: bool


CASES: list[Case] = []


def case(name: str, said: bytes, *statuses: int, goes_on: bool | None = None) -> None:
    on = statuses[-1] in (200, 404, 405, 417, 422) if goes_on is None else goes_on
    CASES.append(Case(f"{len(CASES)} {name}", said, statuses, on))


def get(headers: bytes = b"host: x\r\n", line: bytes = b"GET /incoming?data=ok HTTP/1.1") -> bytes:
    return b"%b\r\n%b\r\n" % (line, headers)


def post(headers: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    form = b"host: x\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    return b"POST /incoming HTTP/%b\r\n%b%b\r\n%b" % (version, form, headers, body)


def chunked(body: bytes, more: bytes = b"") -> bytes:
    return post(b"transfer-encoding: chunked\r\n" + more, body)


def line(first: bytes, headers: bytes = b"host: x\r\n") -> bytes:
    return get(headers, first)


# --- What is plainly right --------------------------------------------------------------------

OK = b"7\r\ndata=ok\r\n0\r\n\r\n"
case("a plain GET", get(), 200)
case("a plain POST", post(b"content-length: 7\r\n", b"data=ok"), 200)
case("a chunked POST", chunked(OK), 200)
for many in (2, 3, 10, 70, 200):
    case(f"{many} pipelined", get() * many, *[200] * many)
case(
    "pipelined of all kinds",
    get() + post(b"content-length: 7\r\n", b"data=ok") + chunked(OK) + get(),
    200,
    200,
    200,
    200,
)
case("an empty line before", b"\r\n" + get(), 200)
case("empty lines before", b"\r\n" * 5 + get(), 200)
case("an empty line between", get() + b"\r\n" + get(), 200, 200)
case(
    "a body and an extra line, as of old browsers",
    post(b"content-length: 7\r\n", b"data=ok") + b"\r\n" + get(),
    200,
    200,
)

# --- Methods ----------------------------------------------------------------------------------

for method in (b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE"):
    case(f"{method!r} is known", line(method + b" /incoming HTTP/1.1"), 405)
for method in (
    b"FOO",
    b"get",
    b"Get",
    b"GETT",
    b"PROPFIND",
    b"PURGE",
    b"M-SEARCH",
    b"X!#$%&'*+-.^_`|~1",
    b"QUERY",
):
    case(f"{method!r} is not known", line(method + b" /incoming HTTP/1.1"), 501)
for method in (
    b"G(T",
    b"G@T",
    b"G:T",
    b"G{T",
    b"G\x00T",
    b"G\x7fT",
    b"G\xc3\xa9T",
    b"GE\tT",
    b'"GET"',
    b"G/T",
    b"G,T",
    b"<GET>",
    b"G[T]",
    b"GET\x0b",
    b"",
):
    case(f"{method!r} is no method", line(method + b" /incoming HTTP/1.1"), 400)
case("CONNECT", line(b"CONNECT x:443 HTTP/1.1"), 404, goes_on=False)
case("CONNECT without a port", line(b"CONNECT x HTTP/1.1"), 400)
case("CONNECT with a path", line(b"CONNECT /incoming HTTP/1.1"), 405, goes_on=False)
case("OPTIONS *", line(b"OPTIONS * HTTP/1.1"), 404)
for method in (b"GET", b"POST", b"DELETE", b"TRACE"):
    case(f"{method!r} *", line(method + b" * HTTP/1.1"), 400)
case("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)

# --- Versions ---------------------------------------------------------------------------------

for version in (b"HTTP/1.2", b"HTTP/1.3", b"HTTP/1.9"):
    case(f"{version!r} is served as 1.1", line(b"GET /incoming?data=ok " + version), 200)
    case(f"{version!r} needs a Host", line(b"GET /incoming?data=ok " + version, b""), 400)
for version in (b"HTTP/0.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"HTTP/0.0"):
    case(f"{version!r} is not served", line(b"GET /incoming?data=ok " + version), 505)
for version in (
    *(b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.1.1", b"HTTP/1,1"),
    *(b"HTTP 1.1", b"HTTP/1.1 ", b"http/1.1", b"Http/1.1", b"HTP/1.1", b"HTTPS/1.1", b"HTTP/x.y"),
    *(
        b"HTTP/1.\xb2",
        b"HTTP/+1.1",
        b"HTTP/-1.1",
        b"HTTP/0x1",
        b"HTTP/1.1a",
        b"HTTP/",
        b"HTTP",
        b"1.1",
    ),
    *(b"HTTP/1.1\t", b"\tHTTP/1.1", b"HTTP/\x001.1", b"HTTP\\1.1", b"ICE/1.0", b"RTSP/1.0"),
):
    case(f"{version!r} is no version", line(b"GET /incoming?data=ok " + version), 400)
case("no version", b"GET /incoming?data=ok\r\n\r\n", 400)
case("no target", b"GET HTTP/1.1\r\nhost: x\r\n\r\n", 400)
case("HTTP/1.0 ends", line(b"GET /incoming?data=ok HTTP/1.0"), 200, goes_on=False)
case("HTTP/1.0 without a Host", line(b"GET /incoming?data=ok HTTP/1.0", b""), 200, goes_on=False)
for value in (b"keep-alive", b"Keep-Alive", b"foo, keep-alive"):
    case(
        f"HTTP/1.0 and {value!r}",
        line(b"GET /incoming?data=ok HTTP/1.0", b"connection: %b\r\n" % value),
        200,
    )
for value in (b"close", b"keep-alive, close", b"foo", b""):
    case(
        f"HTTP/1.0 and {value!r}",
        line(b"GET /incoming?data=ok HTTP/1.0", b"connection: %b\r\n" % value),
        200,
        goes_on=False,
    )
for value in (b"close", b"Close", b"CLOSE", b"keep-alive, close", b"close, foo", b"foo ,close"):
    case(
        f"connection: {value!r}", get(b"host: x\r\nconnection: %b\r\n" % value), 200, goes_on=False
    )
for value in (
    b"keep-alive",
    b"closed",
    b"foo",
    b"",
    b"upgrade",
    b"not-close",
    b"host",
    b"te, content-length",
):
    case(f"connection: {value!r}", get(b"host: x\r\nconnection: %b\r\n" % value), 200)
case(
    "connection twice",
    get(b"host: x\r\nconnection: keep-alive\r\nconnection: close\r\n"),
    200,
    goes_on=False,
)

# --- Request lines ----------------------------------------------------------------------------

for first in (
    *(b"GET  /incoming HTTP/1.1", b"GET /incoming  HTTP/1.1", b" GET /incoming HTTP/1.1"),
    *(b"GET\t/incoming\tHTTP/1.1", b"GET /incoming\tHTTP/1.1", b"GET /inco ming HTTP/1.1"),
    *(b"GET /incoming HTTP/1.1 x", b"GET", b"GET ", b"hello", b"GET /a\rb HTTP/1.1", b"\x00"),
    *(b"GET /a\nb HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\x1f HTTP/1.1"),
    *(
        b"GET /\xc3\xbc HTTP/1.1",
        b"GET /?data=\xff HTTP/1.1",
        b"GET /\x0c HTTP/1.1",
        b"GET:/ HTTP/1.1",
    ),
    *(b"GET\x0b/ HTTP/1.1", b"GET\xa0/ HTTP/1.1", b"\xef\xbb\xbfGET / HTTP/1.1", b": x"),
):
    case(f"{first!r} is no request line", line(first), 400)
case("TLS to a port without", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400)
case("an answer in place of a request", b"HTTP/1.1 200 OK\r\nhost: x\r\n\r\n", 400)
case("a header in place of a request", b"host: x\r\n\r\n", 400)
case("a bare LF ends the request line", b"GET /incoming?data=ok HTTP/1.1\nhost: x\r\n\r\n", 400)
case("bare LFs end all lines", b"GET /incoming?data=ok HTTP/1.1\nhost: x\n\n", 400)
case("a bare CR ends the request line", b"GET /incoming?data=ok HTTP/1.1\rhost: x\r\n\r\n", 400)
case("a bare LF before the request", b"\n" + get(), 400)
case("a bare CR before the request", b"\r" + get(), 400)
case("a space before the first header", b"GET /incoming?data=ok HTTP/1.1\r\n host: x\r\n\r\n", 400)

# --- Targets ----------------------------------------------------------------------------------

for target in (
    *(b"http://x/incoming?data=ok", b"HTTP://x/incoming?data=ok", b"https://x/incoming?data=ok"),
    *(b"http://x:80/incoming?data=ok", b"http://[::1]:80/incoming?data=ok"),
    *(b"http://other/incoming?data=ok", b"/incoming?data=%6fk", b"/inc%6fming?data=ok"),
    *(
        b"/incoming?data=ok&more=?/:@",
        b'/incoming?data=ok&more="<>{|}^`\\[]',
    ),
):
    case(f"{target!r} is understood", line(b"GET " + target + b" HTTP/1.1"), 200)
for target in (
    b"/",
    b"//incoming",
    b"/incoming/",
    b"/./incoming",
    b"/../incoming",
    b"/a/../incoming",
    b"/incoming%00",
    b"/INCOMING",
    b"/incoming;a",
    b"http://x",
    b"http://x?data=ok",
    b"/%2e%2e/incoming",
    b"/%",
    b"/%zz",
    b"/incoming%2f",
    b"/\\incoming",
):
    case(f"{target!r} is another path", line(b"GET " + target + b" HTTP/1.1"), 404)
for target in (
    *(b"/incoming#a", b"/incoming?data=ok#", b"#", b"http://x/incoming#a", b"http://x#a/incoming"),
    *(
        b"incoming",
        b"x:80",
        b"?data=ok",
        b"ftp://x/incoming",
        b"http:/x/incoming",
        b"http:///incoming",
    ),
    *(
        b"http://u@x/incoming",
        b"http://u:p@x/incoming",
        b"http://x:y/incoming",
        b"http://[::1/incoming",
    ),
    *(
        b"http://a b/incoming",
        b"http://a%/incoming",
        b"http:incoming",
        b"://x/",
        b"http://x\\@y/incoming",
    ),
    *(
        b"*a",
        b"**",
        b"\\incoming",
        b"http//x/incoming",
        b"javascript:alert(1)",
        b"http://x:80:80/incoming",
    ),
):
    case(f"{target!r} is no target", line(b"GET " + target + b" HTTP/1.1"), 400)
case(
    "a target as long as may be",
    line(b"GET /incoming?data=ok&x=" + b"x" * 15_000 + b" HTTP/1.1"),
    200,
)
case("a target too long", line(b"GET /incoming?data=ok&x=" + b"x" * 17_000 + b" HTTP/1.1"), 414)
case("a method too long", line(b"G" * 17_000 + b" /incoming HTTP/1.1"), 414)
case("a target far too long", line(b"GET /incoming?data=" + b"x" * 500_000 + b" HTTP/1.1"), 414)

# --- Host -------------------------------------------------------------------------------------

for host in (
    *(
        b"a.test",
        b"a.test:80",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[::1]:8080",
        b"a_b",
        b"A.TEST",
        b"a.test.",
    ),
    *(b"a:", b"xn--bcher-kva.test", b"%41", b"a!$&'()*+,;=~-._"),
):
    case(f"Host {host!r}", get(b"host: %b\r\n" % host), 200)
for host in (
    *(
        b"",
        b" ",
        b"a b",
        b"a\tb",
        b"a/b",
        b"a?b",
        b"a#b",
        b"u@a",
        b"a:b",
        b"a:80:80",
        b"a,b c",
        b"http://a",
    ),
    *(
        b"[::1",
        b"::1",
        b"a]",
        b"[a]b",
        b"a\\b",
        b"<a>",
        b'"a"',
        b"a%",
        b"a%zz",
        b"\xc3\xbc",
        b"a:123456",
        b"a:-1",
    ),
    *(b"a\x00", b"a\x7f", b"a|b", b"a^b", b"a`b", b"{a}"),
):
    case(f"Host {host!r} is not valid", get(b"host: %b\r\n" % host), 400)
    case(
        f"Host {host!r} of HTTP/1.0 is not valid",
        line(b"GET /incoming?data=ok HTTP/1.0", b"host: %b\r\n" % host),
        400,
    )
case("no Host", get(b""), 400)
case("no Host but others", get(b"hosts: x\r\nx-host: x\r\nh-ost: x\r\n"), 400)
for second in (b"host: x", b"Host: x", b"HOST: y", b"host:", b"hOsT: z"):
    case(f"two Hosts, {second!r}", get(b"host: x\r\n%b\r\n" % second), 400)
    case(f"two Hosts, apart, {second!r}", get(b"host: x\r\naccept: */*\r\n%b\r\n" % second), 400)
    case(
        f"two Hosts of HTTP/1.0, {second!r}",
        line(b"GET /incoming?data=ok HTTP/1.0", b"host: x\r\n%b\r\n" % second),
        400,
    )
case(
    "an absolute target does without no Host",
    line(b"GET http://x/incoming?data=ok HTTP/1.1", b""),
    400,
)
case(
    "an absolute target and two Hosts",
    line(b"GET http://x/incoming HTTP/1.1", b"host: x\r\nhost: x\r\n"),
    400,
)
case(
    "an absolute target and a Host not valid",
    line(b"GET http://x/incoming HTTP/1.1", b"host: a b\r\n"),
    400,
)
case("a valid Host, then another", get() + get(b"host: a b\r\n"), 200, 400)
case(
    "other Hosts each time",
    get(b"host: a\r\n") + get(b"host: b\r\n") + get(b"host: a\r\n"),
    200,
    200,
    200,
)

# --- Names and values of headers --------------------------------------------------------------

for name in (
    b"a",
    b"A-b_c.d",
    b"!#$%&'*+-.^_`|~",
    b"0",
    b"x" * 200,
    b"Content_Length",
    b"x-content-length",
):
    case(f"header {name!r}", get(b"host: x\r\n%b: 7\r\n" % name), 200)
for byte in (*range(33), *b'"(),/;<=>?@[\\]{}', 127, 128, 200, 255):
    if byte not in (10, 13):
        case(f"a header's name with byte {byte}", get(b"host: x\r\nx%cy: 1\r\n" % byte), 400)
for header in (
    b"x",
    b": x",
    b" : x",
    b"x : y",
    b"x\t: y",
    b"x y: z",
    b"x\x0b: y",
    b" x: y",
    b"\tx: y",
    b"host",
    b"accept",
    b"x;y: z",
):
    case(f"{header!r} is no header", get(b"host: x\r\n%b\r\n" % header), 400)
    case(f"{header!r} is no first header", get(b"%b\r\nhost: x\r\n" % header), 400)
for fold in (b" y", b"\ty", b"  content-length: 7", b" ", b"\t"):
    case(f"a folded line, {fold!r}", get(b"host: x\r\nx: y\r\n%b\r\n" % fold), 400)
for byte in (*range(9), *range(10, 32), 127):
    case(f"a header's value with byte {byte}", get(b"host: x\r\nx: a%cb\r\n" % byte), 400)
for value in (
    b"",
    b" ",
    b"\t",
    b" \t ",
    b"a",
    b"  a  ",
    b"\ta\t",
    b"a\tb",
    b"a  b",
    b"\xc3\xbc",
    b"\xff\x80",
    b"a:b",
    b'"a',
    b"x" * 5000,
):
    case(f"a header's value {value[:9]!r}", get(b"host: x\r\nx:%b\r\n" % value), 200)
for host in (b" x", b"x ", b"\tx\t", b"  x \t "):
    case(f"white space around a Host, {host!r}", get(b"host:%b\r\n" % host), 200)
case("a bare LF between headers", get(b"host: x\r\nx: y\nz: 1\r\n"), 400)
case("a bare LF hides a header", get(b"host: x\r\nx: y\ntransfer-encoding: chunked\r\n"), 400)
case("a bare CR hides a header", get(b"host: x\r\nx: y\rtransfer-encoding: chunked\r\n"), 400)
case("a bare CR ends a header", get(b"host: x\r\nx: y\r"), 400)
case("LF CR", get(b"host: x\r\nx: y\n\r"), 400)
case("CR CR LF", get(b"host: x\r\nx: y\r\r\n"), 400)
case("an empty line by LF", b"GET /incoming?data=ok HTTP/1.1\r\nhost: x\r\n\n\r\n\r\n", 400)
case("many headers", get(b"host: x\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(1000))), 200)
case(
    "headers too large",
    get(b"host: x\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(3000))),
    431,
)
case("a header too large", get(b"host: x\r\nx: " + b"x" * 17_000 + b"\r\n"), 431)
case("a header far too large", get(b"host: x\r\nx: " + b"x" * 500_000 + b"\r\n"), 431)
case("unreadable and too large", b"\x00" * 20_000 + b"\r\n\r\n", 414)
case("unreadable and far too large", b"\x00\r\n" * 200_000 + b"\r\n\r\n", 431)

# --- Content-Length ---------------------------------------------------------------------------

for length in (b"7", b"007", b" 7", b"7 ", b"\t7", b"7\t", b" \t 7 \t ", b"0000000007"):
    case(f"Content-Length {length!r}", post(b"content-length:%b\r\n" % length, b"data=ok"), 200)
for length in (
    *(
        b"",
        b" ",
        b"+7",
        b"-7",
        b"-0",
        b"7.0",
        b"0x7",
        b"7e0",
        b"7 7",
        b"7,7",
        b"7, 7",
        b"7,",
        b",7",
        b"seven",
    ),
    *(
        b"7;",
        b'"7"',
        b"7\x00",
        b"\x007",
        b"\xb2",
        b"\xd9\xa7",
        b"7_0",
        b"1e1",
        b"NaN",
        b"7\x0b",
        b"\x0b7",
        b"7a",
    ),
    *(
        b"9" * 19,
        b"9" * 100,
        b"9" * 5000,
        b"18446744073709551623",
        b"0" * 30 + b"7",
        b"7\r\n 0",
        b"0,7",
    ),
):
    case(
        f"Content-Length {length[:30]!r} is not valid",
        post(b"content-length: %b\r\n" % length, b"data=ok"),
        400,
    )
for first, second in (
    (b"7", b"7"),
    (b"7", b"8"),
    (b"0", b"7"),
    (b"7", b"0"),
    (b"", b"7"),
    (b"7", b""),
):
    twice = b"content-length: %b\r\nContent-Length: %b\r\n" % (first, second)
    case(f"two Content-Lengths, {twice!r}", post(twice, b"data=ok"), 400)
case("Content-Length of a GET", get(b"host: x\r\ncontent-length: 0\r\n"), 200)
case("Content-Length too large", post(b"content-length: 9999999\r\n", b""), 413)
case("Content-Length far too large", post(b"content-length: 999999999999999999\r\n", b""), 413)
case(
    "a name that is almost Content-Length",
    get(b"host: x\r\ncontent-length2: 5\r\nxcontent-length: 5\r\n"),
    200,
)
case(
    "Content-Length with a space before the colon", post(b"content-length : 7\r\n", b"data=ok"), 400
)
case(
    "a body hides no request",
    post(
        b"content-length: 51\r\n",
        b"data=ok&x=GET /incoming?data=no HTTP/1.1\r\nhost: x\r\n\r\n"[:51],
    ),
    200,
)
case(
    "a body of a HEAD",
    b"HEAD /incoming HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\ndata=ok",
    405,
)
case(
    "a body of a DELETE",
    b"DELETE /incoming HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\ndata=ok",
    405,
)
case(
    "a body for nobody",
    b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 7\r\n\r\ndata=ok",
    404,
)

# --- Transfer-Encoding ------------------------------------------------------------------------

for coding in (b"chunked", b"Chunked", b"CHUNKED", b" chunked ", b"\tchunked\t"):
    case(f"Transfer-Encoding {coding!r}", post(b"transfer-encoding:%b\r\n" % coding, OK), 200)
for coding in (
    b"gzip",
    b"gzip, chunked",
    b"chunked, gzip",
    b"identity",
    b"xchunked",
    b"chunkedx",
    b"chunked-foo",
    b"deflate",
    b"br,chunked",
    b"chunked, identity",
    b"x",
):
    case(
        f"Transfer-Encoding {coding!r} is not known",
        post(b"transfer-encoding: %b\r\n" % coding, OK),
        501,
    )
for coding in (
    b"",
    b"chunked, chunked",
    b"chunked;q=1",
    b'"chunked"',
    b"chunked,",
    b", chunked",
    b"chunked\x0b",
    b"\x0bchunked",
    b"chunked\x00",
    b"[chunked]",
    b"chun ked",
    b"chunked\r\n ",
    b"\xc4chunked",
    b"'chunked' x",
    b"chunked;",
    b"chunked\r\n\tx",
):
    case(
        f"Transfer-Encoding {coding!r} is not valid",
        post(b"transfer-encoding: %b\r\n" % coding, OK),
        400,
    )
case("Transfer-Encoding twice", chunked(OK, b"transfer-encoding: chunked\r\n"), 400)
case("Transfer-Encoding twice, another", chunked(OK, b"transfer-encoding: identity\r\n"), 501)
for length in (b"0", b"7", b"17", b"", b"x"):
    case(f"both, {length!r} after", chunked(OK, b"content-length: %b\r\n" % length), 400)
    case(
        f"both, {length!r} before",
        post(b"content-length: %b\r\ntransfer-encoding: chunked\r\n" % length, OK),
        400,
    )
    case(
        f"both, not chunked, {length!r}",
        post(b"content-length: %b\r\ntransfer-encoding: gzip\r\n" % length, OK),
        400,
    )
for header in (
    b"transfer-encoding : chunked",
    b" transfer-encoding: chunked",
    b"transfer-encoding\t: chunked",
    b"transfer-encoding\x0b: chunked",
    b"\x00transfer-encoding: chunked",
    b"x: y\r\n transfer-encoding: chunked",
    b"transfer-encoding:\r\n chunked",
):
    case(f"{header!r}", post(b"content-length: 7\r\n%b\r\n" % header, b"data=ok"), 400)
for header in (
    b"transfer_encoding: chunked",
    b"x-transfer-encoding: chunked",
    b"transfer-encodin: chunked",
    b"te: chunked",
    b"transfer--encoding: chunked",
):
    case(f"{header!r} is another", post(b"content-length: 7\r\n%b\r\n" % header, b"data=ok"), 200)
for coding in (b"chunked", b"identity", b"gzip, chunked", b""):
    case(
        f"HTTP/1.0 and Transfer-Encoding {coding!r}",
        post(b"transfer-encoding: %b\r\n" % coding, OK, b"1.0"),
        400,
    )
    case(
        f"HTTP/1.0, kept, and {coding!r}",
        post(b"connection: keep-alive\r\ntransfer-encoding: %b\r\n" % coding, OK, b"1.0"),
        400,
    )
case("HTTP/1.2 and chunks", post(b"transfer-encoding: chunked\r\n", OK, b"1.2"), 200)
case("chunks of a GET", get(b"host: x\r\ntransfer-encoding: chunked\r\n") + b"0\r\n\r\n", 200)

# --- Chunks -----------------------------------------------------------------------------------

END = b"\r\n0\r\n\r\n"
for size in (
    b"7",
    b"07",
    b"000000007",
    b"7;a",
    b"7;a=b",
    b'7;a="b c"',
    b"7 ;a",
    b"7 ; a = b",
    b"7;a;b;c=d",
    b'7;a="\\""',
    b"7;a=" + b"b" * 900,
    b'7;a=";"',
):
    case(f"chunk size {size[:20]!r}", chunked(size + b"\r\ndata=ok" + END), 200)
for size in (
    *(
        b"",
        b" 7",
        b"7 ",
        b"\t7",
        b"7\t",
        b"+7",
        b"-7",
        b"0x7",
        b"7h",
        b"x",
        b"g",
        b"7,",
        b"7.0",
        b"7 7",
        b"7_0",
        b"7;",
        b"7;;a",
    ),
    *(
        b"7;a=",
        b"7;=b",
        b"7;a b",
        b'7;a="',
        b'7;a="b',
        b"7;a\x00",
        b"7;\x0b",
        b"7\x00",
        b"\x007",
        b"7;a\rb",
        b"7;a\nb",
        b"7\r",
        b"\xef\xbc\x97",
    ),
    *(
        b"0" * 20 + b"7",
        b"f" * 16,
        b"f" * 17,
        b"f" * 100,
        b"7;a=" + b"b" * 2000,
        b"7;" + b"a" * 100_000,
        b"FFFFFFFFFFFFFFFF",
        b"7;a=\xff",
    ),
):
    case(f"chunk size {size[:20]!r} is not valid", chunked(size + b"\r\ndata=ok" + END), 400)
case(
    "chunks of a byte",
    chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in b"data=ok") + b"0\r\n\r\n"),
    200,
)
case("hexadecimal sizes", chunked(b"A\r\ndata=ok&xx\r\na\r\n&yyyyyyyyy\r\n0\r\n\r\n"), 200)
case("a last chunk of many zeros", chunked(b"7\r\ndata=ok\r\n00000\r\n\r\n"), 200)
case("a last chunk with an extension", chunked(b"7\r\ndata=ok\r\n0;last\r\n\r\n"), 200)
for body in (
    *(
        b"6\r\ndata=ok\r\n0\r\n\r\n",
        b"8\r\ndata=ok\r\n0\r\n\r\n",
        b"7\r\ndata=ok0\r\n\r\n",
        b"7\ndata=ok\r\n0\r\n\r\n",
    ),
    *(
        b"7\r\ndata=ok\n0\r\n\r\n",
        b"7\r\ndata=ok\r\r0\r\n\r\n",
        b"7\r\ndata=ok\r\n\r\n0\r\n\r\n",
        b"7\rdata=ok\r\n0\r\n\r\n",
    ),
    *(
        b"7\r\ndata=ok\r\n0\n\r\n",
        b"7\r\ndata=ok\r\n0\r\n\n",
        b"7\r\ndata=ok\r\n0\r\r",
        b"\r\n7\r\ndata=ok\r\n0\r\n\r\n",
    ),
    *(
        b"7\r\ndata=ok\r\n-1\r\n\r\n",
        b"7\r\ndata=ok\r\n0\r\nx\r\n\r\n",
        b"7\r\ndata=ok\r\n0\r\n x: y\r\n\r\n",
    ),
    *(
        b"7\r\ndata=ok\r\n0\r\nx : y\r\n\r\n",
        b"7\r\ndata=ok\r\n0\r\nx: y\nz: 1\r\n\r\n",
        b"7\r\ndata=ok\r\n0\r\n: y\r\n\r\n",
    ),
    *(
        b"7\r\ndata=ok\r\n0\r\nx: \x00\r\n\r\n",
        b"7\r\ndata=ok\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
        b"data=ok",
    ),
):
    case(f"chunks {body!r} are not valid", chunked(body), 400)
for trailer in (
    b"x: y",
    b"x: y\r\nz: 1",
    b"content-length: 7",
    b"transfer-encoding: gzip",
    b"host: other",
    b"x:",
):
    case(
        f"a trailer {trailer!r} is dropped",
        chunked(b"7\r\ndata=ok\r\n0\r\n%b\r\n\r\n" % trailer),
        200,
    )
case("a trailer too large", chunked(b"7\r\ndata=ok\r\n0\r\nx: " + b"x" * 20_000 + b"\r\n\r\n"), 431)
case(
    "chunks for nobody",
    b"POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + OK,
    404,
    goes_on=False,
)

# --- Smuggled ---------------------------------------------------------------------------------

HIDDEN = b"GET /incoming?data=smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
case(
    "CL.TE",
    post(b"content-length: 6\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    400,
)
case("TE.CL", chunked(b"0\r\n\r\n" + HIDDEN, b"content-length: 4\r\n"), 400)
case("TE.TE", chunked(b"0\r\n\r\n" + HIDDEN, b"transfer-encoding: x\r\n"), 501)
case(
    "TE.TE, a space",
    post(b"content-length: 5\r\ntransfer-encoding : chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    400,
)
case("CL.CL", post(b"content-length: 0\r\ncontent-length: %d\r\n" % len(HIDDEN), HIDDEN), 400)
case("CL.0", get(b"host: x\r\ncontent-length: +%d\r\n" % len(HIDDEN)) + HIDDEN, 400)
case("TE.0", get(b"host: x\r\ntransfer-encoding: chunked, x\r\n") + HIDDEN, 501)
case("behind a chunk that is too long", chunked(b"1\r\ndata=ok\r\n0\r\n\r\n" + HIDDEN), 400)
case("in an extension by LF", chunked(b"7;a\ndata=ok\r\n0\r\n\r\n" + HIDDEN), 400)
case(
    "behind an upgrade",
    get(b"host: x\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: x\r\n") + HIDDEN,
    400,
)
case("behind CONNECT", line(b"CONNECT x:80 HTTP/1.1") + HIDDEN, 404, goes_on=False)
case("behind the last", get(b"host: x\r\nconnection: close\r\n") + HIDDEN, 200, goes_on=False)
case("behind an unknown method", line(b"FOO /incoming HTTP/1.1") + HIDDEN, 501)
case("behind HTTP/1.0", line(b"GET /incoming?data=ok HTTP/1.0") + HIDDEN, 200, goes_on=False)
case("behind what cannot be read", b"GET /incoming HTTP/1.1\r\nhost: x\r\nx\r\n\r\n" + HIDDEN, 400)
case("behind what is too large", get(b"host: x\r\nx: " + b"x" * 17_000 + b"\r\n") + HIDDEN, 431)

# --- Expect and Upgrade -----------------------------------------------------------------------

for value in (b"100-continue", b"100-Continue", b" 100-CONTINUE "):
    case(
        f"Expect {value!r}, body sent at once",
        post(b"expect:%b\r\ncontent-length: 7\r\n" % value, b"data=ok"),
        200,
    )
    case(f"Expect {value!r} without a body", get(b"host: x\r\nexpect:%b\r\n" % value), 200)
    case(
        f"Expect {value!r} of HTTP/1.0",
        post(b"expect:%b\r\ncontent-length: 7\r\n" % value, b"data=ok", b"1.0"),
        200,
        goes_on=False,
    )
for value in (b"", b"miracles", b"200-ok", b"100-continue, x", b"100-continue=1"):
    case(f"Expect {value!r}", get(b"host: x\r\nexpect: %b\r\n" % value), 417)
for upgrade in (b"h2c", b"websocket", b"TLS/1.0", b"HTTP/2.0, x"):
    offer = b"connection: upgrade, x\r\nupgrade: %b\r\n" % upgrade
    case(f"Upgrade {upgrade!r} of a GET", get(b"host: x\r\n" + offer) + get(), 200, 200)
    case(
        f"Upgrade {upgrade!r} of a POST",
        post(offer + b"content-length: 7\r\n", b"data=ok") + get(),
        200,
        200,
    )
    case(f"Upgrade {upgrade!r} and chunks", chunked(OK, offer) + get(), 200, 200)
