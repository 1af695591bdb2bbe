"""Real issuers of OpenID Connect tokens, over TLS of their own authority: tools/issuer."""
import contextlib
import functools
import json
import ssl
import subprocess
import time
import urllib.parse
import urllib.request

from cloud import ROOT


@functools.cache
def program():
    p = subprocess.run([ROOT / "scripts" / "issuer"], capture_output=True, text=True, timeout=1200)
    assert p.returncode == 0, p.stderr
    return p.stdout.strip()


def make_certificates(directory):
    """ca.crt, and server.crt with server.key for 127.0.0.1."""
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority of issuers")
    openssl(*new, "-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=issuer", "-CA", "ca.crt", "-CAkey", "ca.key",
            "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth")


class Issuer:
    """A running issuer. directory: of make_certificates(). users: groups by name; a user's password is the name backwards."""

    def __init__(self, directory, users, life="1h", alg="RS256", listen="127.0.0.1:0"):
        self.dir = directory
        self.ca = directory / "ca.crt"
        self.process = subprocess.Popen([program(), "-listen", listen, "-cert", directory / "server.crt", "-key", directory / "server.key", "-users", json.dumps(users),
                                         "-life", life, "-alg", alg], stdout=subprocess.PIPE, stderr=open(directory / "issuer.log", "ab"), text=True)
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("https://"), (directory / "issuer.log").read_text()

    def call(self, path, data=None, query=None):
        url = path if path.startswith("https://") else self.url + path
        url += "?" + urllib.parse.urlencode(query) if query else ""
        with urllib.request.urlopen(url, data=data, timeout=30, context=ssl.create_default_context(cafile=str(self.ca))) as r:
            return r.read().decode()

    def form(self, path, **fields):
        return self.call(path, urllib.parse.urlencode(fields).encode())

    def token(self, name="ann", kid=None, **claims):
        """Signed by its key, with claims as they are given; None leaves one out."""
        now = int(time.time())
        all_claims = {"iss": self.url, "sub": name, "aud": "seki", "iat": now, "exp": now + 300, "email": f"{name}@example.test", **claims}
        return self.call("/test/token", json.dumps({k: v for k, v in all_claims.items() if v is not None}).encode(), {} if kid is None else {"kid": kid})

    def rotate(self, alg="RS256", keep=0):
        return self.call("/test/rotate", b"", {"alg": alg, "keep": keep}).strip()

    def down(self, on=True):
        self.call("/test/down", b"", {"on": "1"} if on else {})

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def several(directory, users):
    """An issuer for each key of users, which has the users of it."""
    make_certificates(directory)
    made = {}
    try:
        for name, its in users.items():
            made[name] = Issuer(directory, its)
        yield made
    finally:
        for i in made.values():
            i.stop()
