"""The seki command line: verbs, exit codes, -o json, errors that say what to do, terminals, completion in a real bash, the manual page."""
import csv
import http.server
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import termios
import threading
import time

import pytest

from cloud import ROOT, SEKI, SLOW, ApiError, Cloud, wait_for

VERBS = ["status", "wait", "chat", "adopt", "key create", "key list", "key revoke", "usage verify", "usage", "logs", "slo", "residency check", "cluster create", "cluster kubeconfig", "cluster delete", "cluster upgrade", "cluster logs", "cluster audit", "cluster backup", "cluster backups", "cluster restore", "tenant create", "tenant list", "tenant suspend", "tenant resume", "tenant close", "audit verify", "audit list", "audit export", "secrets rotate", "secrets status", "support-bundle", "login", "logout", "credential", "break-glass", "backup keygen", "backup verify", "backup", "restore", "upgrade status", "upgrade finish", "rollback", "completion", "version"]
MAN = (ROOT / "packaging" / "man" / "seki.1").read_text()


def run(*args, env=None, timeout=60):
    base = {k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "SEKI_", "KUBECONFIG"))}
    return subprocess.run([str(SEKI), *args], capture_output=True, text=True, timeout=timeout * SLOW, env={**base, "HOME": "/nonexistent", **(env or {})})


def flags_of(*args):
    return re.findall(r"(?:-(\w), |    )(--[\w-]+)", run(*args, "--help").stdout)


@pytest.fixture(scope="module")
def served():
    """One cloud with a fake model, a key, and the environment of its clients."""
    with Cloud() as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=5)
        c.secret = c.key("demo", "first")
        wait_for(lambda: c.gateway_status("/models/fake", c.secret) == 200, what="the model")
        c.env = {"KUBECONFIG": c.kubeconfig, "OPENAI_BASE_URL": c.base_url, "OPENAI_API_KEY": c.secret, "SEKI_MODEL": "fake", "SEKI_LOG_DIR": str(c.data / "log")}
        yield c


# ---- help and use ----

def test_help_names_every_verb():
    p = run("--help")
    assert p.returncode == 0 and all(f"  {v} " in p.stdout for v in VERBS)
    bare = run()
    assert bare.returncode == 2 and bare.stdout == p.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_helps(verb):
    p = run(*verb.split(), "--help")
    assert p.returncode == 0 and p.stdout.startswith(f"Usage: seki {verb}") and "--namespace" in p.stdout
    assert run("-h", *verb.split()).stdout == p.stdout
    assert run("help", *verb.split()).stdout == p.stdout


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_terminal_of_100_columns(verb):
    lines = run(*verb.split(), "--help").stdout.split("\n")
    assert [line for line in lines if len(line) > 100] == []
    assert not any(a == b == "" for a, b in zip(lines, lines[1:])) and lines[-1] == "" != lines[-2]


def test_help_of_a_first_word_names_its_verbs():
    for args in (["key", "--help"], ["help", "key"]):
        p = run(*args)
        assert p.returncode == 0 and p.stdout.count("Usage: ") == 3, p.stderr
        assert all(f"Usage: seki key {v}" in p.stdout for v in ("create NAME", "list", "revoke NAME"))


@pytest.mark.parametrize("args, said", [
    (["nonsense"], "no such verb: nonsense; there are status, wait, chat, adopt, key, usage, "),
    (["key", "nonsense"], "no such verb: key nonsense; there are key create, key list, key revoke"),
    (["key"], "key needs one more word: one of create, list, revoke"),
    (["help", "nonsense"], "no such verb: nonsense"),
    (["chat", "--model", "--raw", "hi"], "--model needs a value: NAME"),
    (["status", "extra"], "unexpected argument extra"),
    (["status", "--nope"], "unknown option --nope of status"),
    (["--raw", "chat"], "unknown option --raw before a verb"),
    (["wait", "modelendpoint"], "expected KIND/NAME"),
    (["wait", "nokind/x"], "no such kind: nokind"),
    (["wait", "mep/x", "--timeout"], "--timeout needs a value: DURATION"),
    (["wait", "mep/x", "--timeout", "soon"], "--timeout=soon: expected a duration"),
    (["wait", "mep/x", "--timeout=1s", "--timeout=2s"], "--timeout is given twice"),
    (["key", "create"], "expected the key's NAME"),
    (["key", "create", "k", "--expires", "-5m"], "--expires=-5m: expected a duration"),
    (["key", "create", "k", "--quiet=yes"], "--quiet takes no value"),
    (["usage", "--day", "yesterday"], "--day=yesterday: expected YYYY-MM-DD"),
    (["slo", "--month", "2026"], "--month=2026: expected YYYY-MM"),
    (["logs"], "expected the REPLICA's name"),
    (["logs", "r", "--lines", "0"], "--lines=0: expected a number"),
    (["status", "-o", "yaml"], "--output=yaml: expected table or json"),
    (["chat", "hi"], "OPENAI_BASE_URL, OPENAI_API_KEY, SEKI_MODEL not set"),
    (["chat", "hi"], "--model"),
    (["chat", "hi", "--max-tokens", "many"], "--max-tokens=many: expected a number"),
    (["completion", "powershell"], "expected a shell: bash, zsh or fish"),
])
def test_wrong_use_is_status_2_and_says_what_was_expected(args, said):
    p = run(*args)
    assert p.returncode == 2 and said in p.stderr and p.stdout == "", p.stderr


def test_version():
    assert re.fullmatch(r"seki \d+\.\d+\.\d+\n", run("version").stdout)
    assert run("--version").stdout == run("-V").stdout == run("version").stdout
    assert json.loads(run("version", "-o", "json").stdout)["version"] in run("version").stdout


def test_output_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "w") as full:
        p = subprocess.run([str(SEKI), "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and "could not be written" in p.stderr


# ---- errors that say what to do ----

def test_no_kubeconfig():
    p = run("status")
    assert p.returncode == 1 and "/nonexistent/.kube/config" in p.stderr and "admin.kubeconfig" in p.stderr


def test_api_down(served, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # bound, not listening: refused
        config = pathlib.Path(served.kubeconfig).read_text().replace(served.api_url, f"https://127.0.0.1:{s.getsockname()[1]}")
        (tmp_path / "kubeconfig").write_text(config)
        p = run("--kubeconfig", str(tmp_path / "kubeconfig"), "status")
    assert p.returncode == 1 and "is sekid running?" in p.stderr and str(s) not in p.stderr


def test_foreign_certificate_authority(served, tmp_path):
    with Cloud() as other:
        config = pathlib.Path(other.kubeconfig).read_text().replace(other.api_url, served.api_url)
    (tmp_path / "kubeconfig").write_text(config)
    p = run("status", env={"KUBECONFIG": str(tmp_path / "kubeconfig")})
    assert p.returncode == 1 and "is the kubeconfig of this Seki?" in p.stderr, p.stderr


@pytest.mark.parametrize("args", [["status"], ["key", "list"], ["key", "create", "k"], ["key", "revoke", "k"], ["usage"], ["logs", "fake-0"]])
def test_wrong_namespace(served, args):
    p = run("-n", "nowhere", *args, env=served.env)
    assert p.returncode == 1 and "no project nowhere" in p.stderr and "kubectl get namespaces" in p.stderr, p.stderr


def test_gateway_down(served):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}/v1"
        p = run("chat", "hi", "--base-url", url, env=served.env)
    assert p.returncode == 1 and url[:-3] in p.stderr and "is sekid running" in p.stderr, p.stderr


def test_unknown_model_names_those_there_are(served):
    p = run("chat", "hi", "--model", "nope", env=served.env)
    assert p.returncode == 1 and "answered 404" in p.stderr and "this key may call: fake" in p.stderr, p.stderr


def test_wrong_and_expired_keys(served):
    p = run("chat", "hi", env={**served.env, "OPENAI_API_KEY": "sk-seki-wrong"})
    assert p.returncode == 1 and "answered 401: Incorrect API key provided; `seki -n PROJECT key create NAME` makes" in p.stderr, p.stderr
    old = served.create("apikeys", "demo", "old", {"expiresAt": "2020-01-01T00:00:00Z"})["status"]["key"]
    wait_for(lambda: "expired" in run("chat", "hi", env={**served.env, "OPENAI_API_KEY": old}).stderr, what="the gateway to know the key")


def test_a_key_that_is_there_already(served):
    p = run("-n", "demo", "key", "create", "first", env=served.env)
    assert p.returncode == 1 and "key first of project demo already exists" in p.stderr and "seki -n demo key revoke first" in p.stderr, p.stderr


def test_a_key_for_an_endpoint_that_is_not_there_is_made_with_a_note(served):
    p = run("-n", "demo", "key", "create", "early", "--endpoint", "later", "--endpoint", "fake", "--quiet", env=served.env)
    assert p.returncode == 0 and p.stdout.startswith("sk-seki-"), p.stderr
    assert "note: project demo has no endpoint later yet" in p.stderr and "fake" not in p.stderr, p.stderr


def test_missing_replica_and_key(served):
    assert run("-n", "demo", "logs", "modelreplica/fake-0", env=served.env).stdout == run("-n", "demo", "logs", "fake-0", env=served.env).stdout
    p = run("-n", "demo", "logs", "nope-0", env=served.env)
    assert p.returncode == 1 and "no replica nope-0; it has fake-0" in p.stderr, p.stderr
    p = run("-n", "demo", "key", "revoke", "nope", env=served.env)
    assert p.returncode == 1 and "has no key nope" in p.stderr, p.stderr


# ---- verbs ----

def test_status(served):
    p = run("status", env=served.env)
    assert p.returncode == 0 and re.search(r"demo +modelendpoint/fake +Ready", p.stdout) and re.search(r"demo +modelreplica/fake-0 +Ready", p.stdout)
    assert {o["kind"] for o in json.loads(run("-o", "json", "status", env=served.env).stdout)} == {"ModelEndpoint", "ModelReplica"}
    p = run("-n", "default", "status", env=served.env)
    assert p.returncode == 0 and p.stdout == "" and "no model endpoints" in p.stderr


def test_status_tells_of_routes_and_of_what_serves_only_in_part(served):
    served.project("routed")
    served.fake_endpoint("routed", "one", tokens=1)
    served.create("modelroutes", "routed", "whole", {"servedName": "gpt-4o", "backends": [{"endpoint": "one"}]})
    served.create("modelroutes", "routed", "half", {"backends": [{"endpoint": "one", "weight": 9}, {"endpoint": "nope", "weight": 1}]})
    served.wait_condition("modelroutes", "routed", "whole")
    served.wait_condition("modelroutes", "routed", "half", reason="Degraded")
    out = run("-n", "routed", "status", env=served.env).stdout
    assert re.search(r"modelroute/whole +Ready +\S+ +gpt-4o\n", out) and re.search(r"modelroute/half +Degraded +\S+ +1 of 2 backends serve; nope: ", out), out


def test_chat(served):
    p = run("chat", "hi", env=served.env)
    assert p.returncode == 0 and p.stdout == "tok0 tok1 tok2 tok3 tok4\n" and "5 tokens" in p.stderr and "\033" not in p.stderr
    p = run("chat", "--raw", "--", "-1 is", env=served.env)
    assert p.returncode == 0 and p.stdout.startswith("tok0")
    answer = json.loads(run("chat", "hi", "-o", "json", env=served.env).stdout)
    assert answer["model"] == "fake" and answer["completionTokens"] == 5 and answer["answer"].startswith("tok0")
    p = subprocess.run([str(SEKI), "chat"], input="one\ntwo\n\n", capture_output=True, text=True, timeout=60 * SLOW, env={**os.environ, **served.env})
    assert p.returncode == 0 and p.stdout.count("tok4") == 2 and "> " not in p.stderr


def test_keys(served):
    secret = run("-n", "demo", "key", "create", "visitor", "--expires", "30d", "--endpoint", "fake", "-q", env=served.env).stdout.strip()
    assert secret.startswith("sk-seki-")
    p = run("-n", "demo", "key", "create", "visitor", env=served.env)
    assert p.returncode == 1 and "already exists" in p.stderr
    rows = run("-n", "demo", "key", "list", env=served.env).stdout
    assert re.search(r"visitor +sk-seki-\S+… +Active +\d{4}-", rows) and secret not in rows
    keys = json.loads(run("key", "list", "-A", "-o", "json", env=served.env).stdout)
    spec = next(k["spec"] for k in keys if k["metadata"]["name"] == "visitor")
    assert spec["endpoints"] == ["fake"]
    wait_for(lambda: served.gateway_status("/models", secret) == 200, what="the key to be known")
    assert "revoked" in run("-n", "demo", "key", "revoke", "visitor", env=served.env).stdout
    wait_for(lambda: served.gateway_status("/models", secret) == 401, what="the key to be refused")


def test_usage(served):
    run("chat", "hi", env=served.env)

    def counted():
        return next((line.split() for line in run("-n", "demo", "usage", env=served.env).stdout.splitlines() if " first " in line and " fake " in line), None)
    row = wait_for(counted, what="usage")
    assert row[1:4] == ["demo", "first", "fake"] and int(row[4]) >= 1
    assert run("-n", "demo", "usage", "--day", "2020-01-01", "-o", "json", env=served.env).stdout.strip() == "[]"
    assert run("-n", "demo", "usage", "--day", row[0], env=served.env).stdout.count(" fake ") >= 1
    lines = list(csv.DictReader(run("-n", "demo", "usage", "-o", "csv", env=served.env).stdout.splitlines()))
    mine = next(r for r in lines if r["KEY"] == "first" and r["MODEL"] == "fake")
    assert int(mine["REQUESTS"]) >= 1 and [mine[k] for k in ("LOSERS", "REPLAYED", "UNSEEN", "INEXACT")] == ["0"] * 4 and mine["COST"] == ""
    table, wide = (run("-n", "demo", "usage", "-o", output, env=served.env).stdout.splitlines() for output in ("table", "wide"))
    assert max(map(len, table)) <= 100 and "REPLAYED" not in table[0]  # fits a terminal; what is billed
    assert wide[0].split() == list(mine) and len(wide) == len(table)
    p = run("usage", "-o", "yaml", env=served.env)
    assert p.returncode == 2 and "expected table, wide, csv or json" in p.stderr
    p = run("key", "list", "-o", "csv", env=served.env)
    assert p.returncode == 2 and "expected table or json" in p.stderr


def test_empty_lists_are_sentences(served):
    served.project("empty")
    for args, said in ((["key", "list"], "project empty has no keys"), (["usage"], "project empty used nothing yet"),
                       (["usage", "--day", "2020-01-31"], "project empty used nothing on 2020-01-31")):
        p = run("-n", "empty", *args, env=served.env)
        assert p.returncode == 0 and p.stdout == "" and p.stderr == f"seki: {said}\n", (p.stdout, p.stderr)
        assert json.loads(run("-n", "empty", *args, "-o", "json", env=served.env).stdout) == []
    p = run("usage", "-A", "--day", "2020-01-31", env=served.env)
    assert p.returncode == 0 and p.stdout == "" and p.stderr == "seki: nothing was used on 2020-01-31\n", (p.stdout, p.stderr)


def test_json_is_without_bookkeeping(served):
    """As kubectl's: who manages which field is not what one asked for."""
    for args in (["status"], ["key", "list"], ["wait", "mep/fake"]):
        p = run("-n", "demo", *args, "-o", "json", env=served.env)
        assert p.returncode == 0 and '"metadata"' in p.stdout and "managedFields" not in p.stdout


def test_logs(served):
    p = run("-n", "demo", "logs", "fake-0", env=served.env)
    assert p.returncode == 0, p.stderr
    path = next((served.data / "log").glob("mr-demo-fake-0-*.log"))
    with open(path, "a") as log:
        log.write("".join(f"line {i} {'x' * 100}\n" for i in range(2000)))
    lines = run("-n", "demo", "logs", "fake-0", "--lines", "1500", env=served.env).stdout.splitlines()
    assert len(lines) == 1500 and lines[0].startswith("line 500 ") and lines[-1].startswith("line 1999 ")
    p = run("-n", "demo", "logs", "fake-0", "--log-dir", "/nonexistent", env=served.env)
    assert p.returncode == 1 and "--log-dir" in p.stderr


def test_logs_follow_over_a_rotation(served):
    path = next((served.data / "log").glob("mr-demo-fake-0-*.log"))
    p = subprocess.Popen([str(SEKI), "-n", "demo", "logs", "fake-0", "--lines=1", "-f"], stdout=subprocess.PIPE, text=True, env={**os.environ, **served.env})
    try:
        with open(path, "a") as log:
            log.write("before\n")
        assert any(line == "before\n" for line in iter(p.stdout.readline, ""))
        os.truncate(path, 0)  # as rotation does
        with open(path, "a") as log:
            log.write("after\n")
        assert any(line == "after\n" for line in iter(p.stdout.readline, ""))
    finally:
        p.kill()
        p.wait()


def test_wait_is_for_the_spec_of_now(served):
    """Until a controller has looked at a change, conditions are of the spec before."""
    for seconds in range(301, 311):
        served.kubectl("-n", "demo", "patch", "mep", "fake", "--type=merge", "-p", json.dumps({"spec": {"startTimeoutSeconds": seconds}}))
        p = run("-n", "demo", "wait", "mep/fake", "-o", "json", env=served.env)
        assert p.returncode == 0, p.stderr
        said = json.loads(p.stdout)
        assert said["spec"]["startTimeoutSeconds"] == seconds and said["status"]["observedGeneration"] == said["metadata"]["generation"], said


def test_wait(served):
    p = run("-n", "demo", "wait", "mep/fake", env=served.env)
    assert p.returncode == 0 and p.stdout == ""
    assert json.loads(run("-n", "demo", "wait", "mep/fake", "-o", "json", env=served.env).stdout)["metadata"]["name"] == "fake"
    p = run("-n", "demo", "wait", "mep/nope", "--timeout", "300ms", env=served.env)
    assert p.returncode == 1 and "is not Ready after 300ms" in p.stderr
    assert "project demo has no modelendpoint nope yet" in p.stderr, p.stderr
    p = run("-n", "nowhere", "wait", "mep/fake", env=served.env)
    assert p.returncode == 1 and "no project nowhere" in p.stderr, p.stderr
    p = run("-n", "demo", "wait", "mep/fake", "--for", "Happy", "--timeout", "100ms", env=served.env)
    assert p.returncode == 1 and "it has no condition Happy; it has ModelVerified, EngineStarted, Ready" in p.stderr, p.stderr
    served.create("modelendpoints", "demo", "never", {"engine": {"driver": "fake", "options": {"loadDelayMs": "600000"}}})
    p = run("-n", "demo", "wait", "mep/never", "--timeout", "2s", env=served.env)
    assert p.returncode == 1 and "last seen:" in p.stderr and len(p.stderr.splitlines()) >= 2, p.stderr
    served.create("modelendpoints", "demo", "crashing", {"engine": {"driver": "fake", "options": {"noSuchOption": "1"}}})
    p = run("-n", "demo", "wait", "mep/crashing", "--unless", "DigestMismatch", "--unless", "CrashLoopBackOff", "--timeout", "5m", env=served.env)
    assert p.returncode == 1 and "crashing is not Ready: CrashLoopBackOff" in p.stderr and "no-such-option" in p.stderr, p.stderr


# ---- terminals ----

class Terminal:
    """seki on a pseudo-terminal of its own session, so that Ctrl-C is the terminal's."""

    def __init__(self, args, env, columns=0):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            if columns:
                termios.tcsetwinsize(0, (24, columns))
            os.execve(str(SEKI), [str(SEKI), *args], {**os.environ, **env})
        self.text = ""

    def read(self, until, timeout=30):
        deadline = time.monotonic() + timeout * SLOW
        while until not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"waited for {until!r}, have {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode()
                except OSError:
                    raise AssertionError(f"ended before {until!r}: {self.text!r}") from None
        before, _, self.text = self.text.partition(until)
        return before + until

    def send(self, text):
        os.write(self.fd, text.encode())

    def status(self):
        while True:
            try:
                more = os.read(self.fd, 65536).decode()
            except OSError:
                break
            if not more:
                break
            self.text += more
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_table_draws_together_in_a_narrow_terminal(served):
    lines = run("status", env=served.env).stdout.splitlines()
    wide, gaps = max(map(len, lines)), len(lines[0].split()) - 1
    columns = wide - 2 * gaps + 1
    t = Terminal(["status"], {**served.env, "NO_COLOR": "1"}, columns)
    assert t.status() == 0 and wide - 2 * gaps <= max(map(len, t.text.splitlines())) <= columns, t.text
    t = Terminal(["status"], {**served.env, "NO_COLOR": "1"}, wide + 10)
    assert t.status() == 0 and max(map(len, t.text.splitlines())) >= wide, t.text


def test_colours_are_for_terminals(served):
    env = {k: v for k, v in served.env.items()}
    assert "\033" not in run("status", env=env).stdout
    t = Terminal(["status"], {**env, "NO_COLOR": ""})
    assert t.status() == 0 and "\033[1m" in t.text
    t = Terminal(["status"], {**env, "NO_COLOR": "1"})
    assert t.status() == 0 and "\033" not in t.text


def test_wide_characters_are_aligned_and_control_characters_shown(served):
    served.create("modelendpoints", "demo", "wide", {"servedName": "日本語モデル", "engine": {"driver": "fake", "options": {"tokens": "3"}}})
    served.wait_condition("modelendpoints", "demo", "wide")
    wait_for(lambda: run("chat", "hi", "--model", "日本語モデル", env=served.env).returncode == 0, what="an answer")

    def rows():
        text = run("-n", "demo", "usage", env=served.env).stdout
        return text.splitlines() if "日本語モデル" in text and " fake " in text else None
    lines = wait_for(rows, what="usage of both models")
    # REQUESTS begins in the same terminal column in every row: six wide characters take twelve columns.
    column = lines[0].index("REQUESTS")
    wide = next(line for line in lines if "日本語モデル" in line)
    narrow = next(line for line in lines if " fake " in line)
    assert narrow[column - 1] == " " and narrow[column].isdigit()
    assert wide[column - 6 - 1] == " " and wide[column - 6].isdigit()


ORDERS = "\x1b]0;owned\x07\x9b2J\x7f"  # what a terminal obeys, in seven and in eight bits


def obeys(text):
    return any(c in text for c in ORDERS if c not in "]0;owned2J")


def test_nothing_that_others_wrote_gives_the_terminal_orders(served):
    served.create("models", "demo", "loud", {"source": f"file:///{ORDERS}", "files": [{"name": "f", "digest": "sha256:" + "0" * 64, "sizeBytes": 1}], "license": {"id": "none"}})
    served.wait_condition("models", "demo", "loud", "Verified", "False")
    p = run("-n", "demo", "wait", "model/loud", "--for", "Verified", "--timeout", "1s", env=served.env)
    assert p.returncode == 1 and "owned" in p.stderr and not obeys(p.stderr), p.stderr
    with pytest.raises(ApiError, match="spec.servedName"):
        served.create("modelendpoints", "demo", "loud", {"servedName": f"loud{ORDERS}", "engine": {"driver": "fake"}})


def test_the_names_of_a_servers_models_give_the_terminal_no_orders(served):
    class Server(http.server.BaseHTTPRequestHandler):
        def answer(self, status, doc):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            text = json.dumps(doc).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            self.answer(200, {"object": "list", "data": [{"id": f"loud{ORDERS}", "object": "model"}]})

        def do_POST(self):
            self.answer(404, {"error": {"message": "there is no such model", "type": "invalid_request_error", "code": "model_not_found", "param": "model"}})

        def log_message(self, *_):
            pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        p = run("chat", "hi", "--model", "none", env={**served.env, "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"})
        assert p.returncode == 1 and "loud" in p.stderr and "owned" in p.stderr and not obeys(p.stderr), p.stderr
        server.shutdown()


def test_an_answer_gives_the_terminal_no_orders(served):
    class Engine(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            event = {"choices": [{"index": 0, "delta": {"content": f"before{ORDERS}\n\tafter ☺"}}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())

        def log_message(self, *_):
            pass
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {**served.env, "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
        assert f"before{ORDERS}\n\tafter ☺" in run("chat", "hi", env=env).stdout  # a pipe gets what was said
        t = Terminal(["chat", "hi"], {**env, "NO_COLOR": "1"})
        assert t.status() == 0 and "before?]0;owned?" in t.text and "after ☺" in t.text and not obeys(t.text), repr(t.text)
        server.shutdown()


def test_ctrl_c_ends_an_answer_then_the_prompt_is_back(served):
    served.create("modelendpoints", "demo", "slow", {"engine": {"driver": "fake", "options": {"tokens": "100000", "tokensPerSecond": "20"}}})
    served.wait_condition("modelendpoints", "demo", "slow")
    wait_for(lambda: served.gateway_status("/models/slow", served.secret) == 200, what="the model")
    t = Terminal(["chat", "--model", "slow"], served.env)
    t.read("> ")
    t.send("hello\n")
    t.read("tok2")
    t.send("\x03")
    t.read("> ")
    wait_for(lambda: "seki_gateway_requests_active 0" in served.metrics("metrics-gateway"), what="the request to be settled")
    t.send("again\n")
    t.read("tok2")
    t.send("\x03")
    t.read("> ")
    t.send("\x03")  # at the prompt it ends the program
    assert t.status() == -signal.SIGINT
    t = Terminal(["chat", "hello", "--model", "slow"], served.env)
    t.read("tok2")
    t.send("\x03")
    assert t.status() == 130


# ---- completion ----

def complete(line, shell_env=None):
    """What a real bash offers at the end of the line."""
    script = f"""
source <({SEKI} completion bash)
line={json.dumps(line)}
read -ra COMP_WORDS <<<"$line"
[[ $line == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) COMP_LINE=$line COMP_POINT=${{#line}}
compopt() {{ :; }}
_seki
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    p = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=30)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return sorted(p.stdout.split())


def test_bash_completion():
    assert complete("seki ") == sorted({v.split()[0] for v in VERBS})
    assert complete("seki key ") == ["create", "list", "revoke"]
    assert complete("seki -n demo key cr") == ["create"]
    assert complete("seki completion ") == ["bash", "fish", "zsh"]
    assert complete("seki status --out") == ["--output"]
    assert complete("seki status --output ") == ["json", "table"]
    assert complete("seki usage -A -o ") == ["csv", "json", "table", "wide"]
    assert complete("seki usage verify -o ") == ["csv", "json", "table"]
    assert complete("seki status --output = j") == ["json"]  # as bash splits --output=j
    assert complete("seki wait mep/x --for R") == ["Ready"]
    assert complete("seki key create x --expires ") == []
    assert complete("seki logs x --log-dir /et") == ["/etc"]
    assert complete("seki restore /etc/passw") == complete("seki backup verify /etc/passw") and "/etc/passwd" in complete("seki restore /etc/passw")
    assert complete("seki audit verify /et") == complete("seki usage verify /et") == ["/etc"] and "--tenant" in complete("seki audit list -")
    assert {"keygen", "verify"} < set(complete("seki backup ")) and complete("seki backup key") == ["keygen"]
    assert complete("seki help key ") == complete("seki key ") and complete("seki help cl") == ["cluster"]
    for verb in VERBS:
        offered, told = set(complete(f"seki {verb} --")), {name for _, name in flags_of(*verb.split())}
        assert offered == told or (any(v.startswith(f"{verb} ") for v in VERBS) and offered < told)  # help of "usage" tells of "usage verify" too


def test_bash_completion_is_registered():
    p = subprocess.run(["bash", "--norc", "-c", f"source <({SEKI} completion bash); complete -p seki"], capture_output=True, text=True, timeout=30)
    assert p.stdout.strip() == "complete -F _seki seki"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_completion(shell):
    text = run("completion", shell).stdout
    assert all(word in text for word in ("status", "create", "max-tokens", "all-namespaces")) and "@file" not in text and "@dir" not in text
    if shutil.which(shell):
        p = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=30)
        assert p.returncode == 0, p.stderr


@pytest.mark.parametrize("line, offered", [("seki key ", {"create", "list", "revoke"}), ("seki wait x --for Re", {"Ready"}), ("seki status --out", {"--output"}),
                                           ("seki completion ", {"bash", "zsh", "fish"})])
def test_fish_completion_where_there_is_fish(line, offered):
    if not shutil.which("fish"):
        return
    p = subprocess.run(["fish", "--no-config", "-c", f"{SEKI} completion fish | source; complete -C '{line}'"], capture_output=True, text=True, timeout=30)
    assert {row.split("\t")[0] for row in p.stdout.splitlines()} == offered, p.stdout + p.stderr


# ---- the manual page ----

def test_manual_page_has_every_verb_and_option():
    plain = MAN.replace("\\-", "-")
    for verb in VERBS:
        assert re.search(rf'^\.(B|BI|BR) "?{verb}\b', plain, re.M), f"seki.1 lacks {verb}"
        for letter, name in flags_of(*verb.split()):
            assert re.search(rf"{name}\b", plain), f"seki.1 lacks {name} of {verb}"
            assert not letter or f"-{letter} " in plain, f"seki.1 lacks -{letter}"
    known = {name for verb in VERBS for _, name in flags_of(*verb.split())}
    assert set(re.findall(r"(--[a-z][\w-]+)", plain)) <= known
