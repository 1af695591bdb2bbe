"""Bytes on the wire: a client that sends what it is told, an engine that answers what it is told, and the files that hold such bytes.

A case is a file. Lines up to `---` are `name: value`; lines that begin with # say why. What follows are the bytes, with line ends left out, so that each one is written:
\\r \\n \\t \\0 \\\\ \\xHH are bytes, {NAME} is what the test fills in, {N*TEXT} is TEXT N times ({20000*a}), and a line of only `~` cuts packets: what is before it has
been sent before what is behind it is.
"""
import json
import pathlib
import re
import socket
import ssl
import threading
import time

from cloud import SLOW

WAIT = 20 * SLOW
GAP = 0.002


def _unescape(text):
    def one(m):
        what = m[1]
        return bytes([int(what[1:], 16)]) if what[0] == ord("x") else {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}[what]
    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", one, text)


class Case:
    def __init__(self, path):
        head, _, body = pathlib.Path(path).read_bytes().partition(b"---\n")
        self.name = pathlib.Path(path).stem
        self.fields = dict(re.match(r"([a-z-]+):\s*(.*)", line).groups() for line in head.decode().splitlines() if line and not line.startswith("#"))
        self.lines = body.splitlines()

    def get(self, name, default=None):
        return self.fields.get(name, default)

    def packets(self, **values):
        """The bytes, a list of packets."""
        def fill(m):
            name = m[1].decode()
            return values[name].encode()
        out = [b""]
        for line in self.lines:
            if line == b"~":
                out.append(b"")
                continue
            line = re.sub(rb"\{([A-Z_]+)\}", fill, line)
            line = re.sub(rb"\{(\d+)\*([^}]*)\}", lambda m: m[2] * int(m[1]), line)
            out[-1] += _unescape(line)
        return out


def cases(directory):
    found = sorted(pathlib.Path(directory).glob("*.case"))
    assert found, f"no cases in {directory}"
    return [Case(p) for p in found]


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


class RawClient:
    """A connection that sends bytes as they are and reads answers."""

    def __init__(self, address, tls=None):
        host, port = address.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=WAIT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass  # it may have answered and closed already: that is read next

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, ssl.SSLError):
            data = b""
        self.rest += data
        return bool(data)

    def read_until(self, what):
        while what not in self.rest:
            if not self._more():
                raise EOFError(f"closed before {what!r}: {self.rest[:300]!r}")
        at = self.rest.index(what) + len(what)
        out, self.rest = self.rest[:at], self.rest[at:]
        return out

    def read_exactly(self, n):
        while len(self.rest) < n:
            if not self._more():
                raise EOFError(f"closed after {len(self.rest)} of {n} bytes")
        out, self.rest = self.rest[:n], self.rest[n:]
        return out

    def read_head(self):
        head = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return int(head[0].split(" ")[1]), {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}

    def read_chunk(self):
        size = int(self.read_until(b"\r\n"), 16)
        data = self.read_exactly(size)
        assert self.read_exactly(2) == b"\r\n"
        return data

    def read_body(self, status, headers):
        if status < 200 or status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            out = b""
            while chunk := self.read_chunk():
                out += chunk
            return out
        return self.read_exactly(int(headers["content-length"]))

    def response(self):
        status, headers = self.read_head()
        return Response(status, headers, self.read_body(status, headers))

    def ended(self):
        """The peer has closed, and said nothing more."""
        while self._more():
            pass
        return not self.rest

    def open(self):
        """Still open, and silent: what is sent now would be a new request."""
        self.sock.setblocking(False)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK)) if not isinstance(self.sock, ssl.SSLSocket) else bool(self.sock.recv(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except ConnectionResetError:
            return False
        finally:
            self.sock.settimeout(WAIT)


OK_BODY = b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],' \
          b'"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}'


def answer(body=OK_BODY, status=200, content_type="application/json", headers=""):
    return f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def usage_answer(prompt, completion, cached=0):
    """A chat that says how many tokens it took."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": cached}}
    return answer(json.dumps({"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}], "usage": usage}).encode())


def post(key, body, path="chat/completions", headers="Content-Type: application/json\r\n", auth="Authorization: Bearer "):
    """The bytes of a request; body: bytes, or what becomes JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\n{auth}{key}\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode() + data


# A stream of chat completions, in pieces.
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
STREAM_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}\n\n'
STREAM_TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"good"},"finish_reason":null}]}\n\n'
STREAM_STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
STREAM_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}\n\n'
STREAM_DONE = b"data: [DONE]\n\n"


def ask_once(address, key, body):
    """One chat on a connection of its own."""
    with RawClient(address) as client:
        client.send(post(key, body))
        return client.response()


class Upstream:
    """An OpenAI-compatible server in the test's hands. Probes (GET) are answered; a POST is recorded and answered by `script`, a list of bytes to send and words: "hold" (wait
    for the peer to close), "close", "reset", "wait" (until `go` is set), "gap" (so that what follows is likely read apart). A script may be a function of (head, body) that returns one. `first`: scripts that are played before that one, once each. `metrics`: what /metrics says; None: what every GET does, the list of models. `tokenizes`: questions for tokens are requests, too, and not answered with 404. `closed` counts connections that the gateway closed while they were held, `played` the pieces that were sent."""

    def __init__(self, host="127.0.0.1", port=0, model="m"):
        self.listener = socket.create_server((host, port), backlog=512)
        self.models = json.dumps({"object": "list", "data": [{"id": model, "object": "model"}]}).encode()
        self.url = f"http://{host}:{self.listener.getsockname()[1]}/v1"
        self.script, self.first, self.requests, self.closed, self.played, self.metrics, self.tokenizes = [answer()], [], [], 0, 0, None, False
        self.peers = []  # of requests
        self.changed = threading.Condition()
        self.go = threading.Event()
        self.stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self.stopping = True
        self.listener.close()

    def _accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        data, script = b"", []
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                head, _, data = data.partition(b"\r\n\r\n")
                length = int((re.search(rb"\r\ncontent-length: (\d+)", head, re.I) or [0, b"0"])[1])
                while len(data) < length:
                    more = sock.recv(65536)
                    if not more:
                        return
                    data += more
                body, data = data[:length], data[length:]
                if head.startswith(b"GET"):
                    told = self.metrics is not None and head.startswith(b"GET /metrics ")
                    sock.sendall(answer(self.metrics, content_type="text/plain") if told else answer(self.models))
                    continue
                if not self.tokenizes and re.match(rb"POST \S*/(?:tokenize|apply-template) ", head):
                    sock.sendall(answer(b"{}", 404))
                    continue
                with self.changed:
                    self.requests.append((head, body))
                    self.peers.append(sock.getpeername())
                    script = self.first.pop(0) if self.first else self.script
                    script = list(script(head, body) if callable(script) else script)
                    self.changed.notify_all()
                if not self._play(sock, script):
                    return
        except OSError:
            if script and script[-1] == "hold":  # it left with bytes unread
                self._gone()
        finally:
            sock.close()

    def _gone(self):
        with self.changed:
            self.closed += 1
            self.changed.notify_all()

    def _play(self, sock, script):
        for step in script:
            if step == "hold":
                while sock.recv(65536):
                    pass
                self._gone()
                return False
            if step == "wait":
                if not self.go.wait(WAIT):
                    return False
                continue
            if step == "close":
                return False
            if step == "gap":
                time.sleep(GAP)
                continue
            if step == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return False
            try:
                sock.sendall(step)
            finally:  # a peer that is gone already has been played to, too
                with self.changed:
                    self.played += 1
                    self.changed.notify_all()
        return True

    def wait(self, condition, what):
        with self.changed:
            assert self.changed.wait_for(condition, WAIT), f"waited for {what}: {self.requests[-3:]}"


def journal(directory, name="usage-gateway"):
    """The bodies of a ledger's records, in order, as far as they are whole."""
    out = []
    for path in sorted(pathlib.Path(directory).glob(name + ".[0-9]*")):
        data = path.read_bytes()
        assert data[:8] == b"SEKILEDG"
        at = 32
        while at + 60 <= len(data):
            length = int.from_bytes(data[at:at + 4], "little")
            if at + 60 + length > len(data):
                break
            out.append(json.loads(data[at + 60:at + 60 + length]))
            at += 60 + length
    return out
