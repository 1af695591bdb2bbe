"""seki login: browser and device flow at a real issuer, kubectl with the exec plugin, refresh, logout."""
import base64
import json
import os
import pathlib
import re
import subprocess
import threading
import urllib.error

import pytest

from cloud import KUBECTL, ROOT, SEKI, Cloud, wait_for
from issuer import Issuer, make_certificates


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("issuer")
    make_certificates(directory)
    i = Issuer(directory, {"ann": ["developers"], "bob": []}, life="25s")  # five seconds after it was made a token is too near its end
    yield i
    i.stop()


@pytest.fixture(scope="module")
def cloud(issuer, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "authentication.yaml"
    file.write_text(json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "tenant": "red", "issuer": {"url": issuer.url, "audiences": ["seki"], "certificateAuthority": issuer.ca.read_text()},
        "claimMappings": {"username": {"claim": "sub"}, "groups": {"claim": "groups"}}}]}))
    with Cloud(options={"authentication-config": file}) as c:
        yield c


class Person:
    """Somebody with a home directory of their own."""

    def __init__(self, cloud, issuer, home, name="ann"):
        self.cloud, self.issuer, self.home = cloud, issuer, home
        self.kubeconfig = home / "kube" / "config"
        self.env = {**{k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION")}, "HOME": str(home), "KUBECONFIG": str(self.kubeconfig),
                    "PERSON": name, "ISSUER_CA": str(issuer.ca), "PATH": f"{SEKI.parent}:{os.environ['PATH']}"}
        self.name = name

    def issuer_flags(self):
        return ["--issuer", self.issuer.url, "--client-id", "seki", "--issuer-ca", str(self.issuer.ca)]

    def flags(self):
        return ["--server", self.cloud.api_url, "--ca", str(self.cloud.data / "pki" / "ca.crt"), *self.issuer_flags()]

    def run(self, *args, check=True, **env):
        p = subprocess.run([str(a) for a in args], env={**self.env, **env}, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
        assert not check or p.returncode == 0, p.stdout + p.stderr
        return p

    def login(self, check=True, **env):
        return self.run(SEKI, "login", "--flow", "browser", *self.flags(), check=check, BROWSER=str(ROOT / "tests" / "lib" / "browser.py"), **env)

    def whoami(self, check=True):
        p = self.run(KUBECTL, "auth", "whoami", "-o", "json", check=check)
        return json.loads(p.stdout)["status"]["userInfo"] if p.returncode == 0 else p

    def cache(self):
        return list((self.home / ".cache" / "seki" / "login").glob("*.json"))

    def tokens(self):
        return json.loads(self.cache()[0].read_text())


@pytest.fixture
def ann(cloud, issuer, tmp_path):
    return Person(cloud, issuer, tmp_path)


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def test_browser_flow_and_kubectl_with_the_exec_plugin(ann, cloud):
    ann.login()
    info = ann.whoami()
    assert info["username"] == "red:ann" and set(info["groups"]) == {"red:developers", "seki:tenant:red", "system:authenticated"}
    assert ann.kubeconfig.stat().st_mode & 0o777 == 0o600 and ann.cache()[0].stat().st_mode & 0o777 == 0o600
    assert ann.cache()[0].parent.stat().st_mode & 0o777 == 0o700
    # seki uses it as kubectl does
    p = ann.run(SEKI, "-n", "default", "key", "list", check=False)
    assert 'namespaces "default" not found' in p.stderr  # what is not her tenant's; without a token it would be 401


def test_device_flow(ann, issuer):
    p = subprocess.Popen([str(SEKI), "login", "--flow", "device", *ann.flags()], env=ann.env, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    said = []

    def read():
        for line in p.stderr:
            said.append(line)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    code = wait_for(lambda: re.search(r"(?:code|user_code=)\s*([A-Z]{4}-[A-Z]{4})", "".join(said)), what="the code")[1]
    with pytest.raises(urllib.error.HTTPError):
        issuer.form("/device", user_code=code, username="ann", password="wrong")
    assert p.poll() is None  # it goes on asking
    issuer.form("/device", user_code=code, username="ann", password="nna")
    assert p.wait(60) == 0, "".join(said)
    reader.join(10)
    assert ann.whoami()["username"] == "red:ann"


def test_a_denied_device_is_told(ann, issuer):
    p = subprocess.Popen([str(SEKI), "login", "--flow", "device", *ann.flags()], env=ann.env, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    said = ""
    while not (found := re.search(r"([A-Z]{4}-[A-Z]{4})", said)):
        line = p.stderr.readline()
        assert line, said
        said += line
    issuer.form("/device", user_code=found[1], deny="1")
    _, rest = p.communicate(timeout=60)
    assert p.returncode == 1 and "access_denied" in rest and not ann.kubeconfig.exists()


def test_tokens_are_refreshed_and_refresh_tokens_rotate(ann):
    ann.login()
    first = ann.tokens()

    def renewed():
        p = ann.run(SEKI, "credential", *ann.issuer_flags(), "--flow", "browser")
        credential = json.loads(p.stdout)
        assert credential["kind"] == "ExecCredential" and credential["apiVersion"] == "client.authentication.k8s.io/v1" and credential["status"]["expirationTimestamp"]
        return credential["status"]["token"] != first["idToken"]
    assert not renewed()  # still good
    wait_for(renewed, what="a new token")
    second = ann.tokens()
    assert second["refreshToken"] != first["refreshToken"] and claims(second["idToken"])["exp"] > claims(first["idToken"])["exp"]
    assert ann.whoami()["username"] == "red:ann"


def test_many_at_once_refresh_once(ann):
    ann.login()
    path = ann.cache()[0]
    tokens = ann.tokens()
    path.write_text(json.dumps({**tokens, "expiresMs": 0}))
    both = [subprocess.Popen([str(SEKI), "credential", *ann.issuer_flags()], env=ann.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) for _ in range(4)]
    out = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0] * 4, out
    assert len({json.loads(o)["status"]["token"] for o, _ in out}) == 1  # a refresh token that was used twice would have been refused


def test_without_a_login_or_a_terminal_it_says_what_to_do(ann):
    p = ann.run(SEKI, "credential", *ann.issuer_flags(), check=False)
    assert p.returncode == 1 and "seki login" in p.stderr and p.stdout == ""
    ann.login()
    ann.cache()[0].write_text("{}")
    p = ann.whoami(check=False)
    assert p.returncode != 0 and "nobody is logged in" in p.stderr


def test_tokens_that_others_may_read_are_not_used(ann):
    ann.login()
    ann.cache()[0].chmod(0o644)
    assert "nobody is logged in" in ann.run(SEKI, "credential", *ann.issuer_flags(), check=False).stderr


def test_logout_forgets_here_and_at_the_issuer(ann):
    ann.login()
    kept = ann.cache()[0].read_text()
    assert ann.run(SEKI, "logout").stdout == "Logged out.\n"
    assert not ann.cache()
    assert ann.whoami(check=False).returncode != 0
    # whoever kept a copy of the file gets nothing by it
    path = pathlib.Path(str(ann.home / ".cache/seki/login") + "/" + next((ann.home / ".cache/seki/login").glob("*.lock")).stem + ".json")
    path.write_text(json.dumps({**json.loads(kept), "expiresMs": 0}))
    path.chmod(0o600)
    p = ann.run(SEKI, "credential", *ann.issuer_flags(), check=False)
    assert p.returncode == 1 and "seki login" in p.stderr


def test_other_entries_of_a_kubeconfig_stay(ann):
    ann.kubeconfig.parent.mkdir(parents=True)
    ann.kubeconfig.write_text("apiVersion: v1\nkind: Config\ncurrent-context: old\nclusters: [{name: old, cluster: {server: 'https://old'}}]\n"
                              "contexts: [{name: old, context: {cluster: old, user: old}}]\nusers: [{name: old, user: {token: secret}}]\n")
    ann.login()
    view = json.loads(ann.run(KUBECTL, "config", "view", "--raw", "-o", "json").stdout)
    assert {c["name"] for c in view["contexts"]} == {"old", "seki"} and view["current-context"] == "seki"
    assert next(u for u in view["users"] if u["name"] == "old")["user"]["token"] == "secret"
    ann.login()
    assert len(json.loads(ann.run(KUBECTL, "config", "view", "-o", "json").stdout)["users"]) == 2


def test_each_context_is_the_person_who_logged_in_there(ann):
    """Two people of one issuer in one kubeconfig: neither becomes the other, and one logs out alone."""
    ann.login()
    script = ann.home / "as-bob"
    script.write_text(f'#!/bin/sh\nPERSON=bob exec {ROOT}/tests/lib/browser.py "$1"\n')
    script.chmod(0o755)
    ann.run(SEKI, "login", "--flow", "browser", "--name", "other", *ann.flags(), BROWSER=str(script))

    def who(context):
        p = ann.run(KUBECTL, "--context", context, "auth", "whoami", "-o", "json", check=False)
        return json.loads(p.stdout)["status"]["userInfo"]["username"] if p.returncode == 0 else None
    assert (who("seki"), who("other")) == ("red:ann", "red:bob")
    assert ann.run(SEKI, "logout").stdout == "Logged out.\n"  # the current context's user: other
    assert (who("seki"), who("other")) == ("red:ann", None)


def test_bad_input(ann, issuer, tmp_path):
    def says(text, *args, code=1):
        p = ann.run(SEKI, *args, check=False)
        assert p.returncode == code and text in p.stderr, p.stderr
    flags = ann.flags()
    says("--issuer", "login", "--server", "https://x", code=2)
    says("--client-id", "login", "--server", "https://x", "--issuer", issuer.url, code=2)
    says("--server", "login", *ann.issuer_flags(), code=2)
    says("https", "login", "--server", "http://x", *ann.issuer_flags(), code=2)
    says("browser", "login", *flags, "--flow", "fax", code=2)
    says("certificate", "login", "--server", "https://x", "--issuer", issuer.url, "--client-id", "seki")
    says("--issuer-ca", "login", "--server", "https://x", "--issuer", issuer.url, "--client-id", "seki", "--issuer-ca", str(tmp_path / "none"))
    says("is of issuer", "login", "--server", "https://x", "--issuer", issuer.url + "/", "--client-id", "seki", "--issuer-ca", str(issuer.ca))
    says("refuses", "login", "--flow", "device", "--server", "https://x", "--issuer", issuer.url, "--client-id", "nobody", "--issuer-ca", str(issuer.ca))
    assert not ann.kubeconfig.exists()


def test_strangers_at_the_listener_change_nothing(ann, tmp_path):
    """Whoever does not know the state is answered 404, and the login goes on."""
    script = tmp_path / "browser"
    script.write_text(f"""#!/bin/sh
port=$(printf %s "$1" | sed 's/.*redirect_uri=http[^&]*127.0.0.1\\(:\\|%3A\\)\\([0-9]*\\).*/\\2/')
for q in 'code=x&state=wrong' 'code=x' '' 'error=access_denied&state='; do
    curl -s -o /dev/null -w '%{{http_code}}\\n' "http://127.0.0.1:$port/callback?$q" >>{tmp_path}/codes
done
exec {ROOT}/tests/lib/browser.py "$1"
""")
    script.chmod(0o755)
    p = ann.run(SEKI, "login", "--flow", "browser", *ann.flags(), BROWSER=str(script))
    assert p.returncode == 0 and (tmp_path / "codes").read_text().split() == ["404"] * 4
    assert ann.whoami()["username"] == "red:ann"
