"""Drives the real programs: a Cloud is one sekid with a data directory and ephemeral ports of its own.

Everything is awaited by condition with a deadline; nothing sleeps for a guess. Only processes that a Cloud started are ended by it.
"""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEKI_BUILD", ROOT / "build" / "asan"))
CACHE = pathlib.Path(os.environ.get("SEKI_CACHE", pathlib.Path.home() / ".cache" / "seki"))
SEKID = BUILD / "src" / "sekid"
SEKI = BUILD / "src" / "seki"
FAKE_ENGINE = BUILD / "tests" / "fake_engine"
KUBECTL = os.environ.get("SEKI_KUBECTL") or shutil.which("kubectl") or str(CACHE / "bin" / "kubectl")
SLOW = 4 if "san" in BUILD.name else 1
GROUP = "/apis/seki.cloud/v1alpha1"


def wait_for(condition, timeout=20.0, what="a condition"):
    """Calls condition() until it returns something true, and returns that."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout * SLOW:.0f} s for {what}; last seen: {value!r}")
        time.sleep(0.02)


def until_answered(call, timeout=120):
    """call() until the cloud has answered it: 0, or the status of its refusal. An answer that was lost leaves open what happened."""
    deadline = time.monotonic() + timeout * SLOW
    while True:
        try:
            call()
            return 0
        except ApiError as e:
            if e.status not in (429, 500, 503, 504):
                return e.status
        except (OSError, ValueError, http.client.HTTPException):
            pass
        assert time.monotonic() < deadline, "the API does not come back"
        time.sleep(0.05)  # it is down: not a wait for a result


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


class Cloud:
    """A running sekid. Use as a context manager."""

    def __init__(self, options=None, directory=None, args=()):
        self.own_directory = directory is None
        self.dir = pathlib.Path(directory or tempfile.mkdtemp(prefix="seki-test-"))
        self.data = self.dir / "data"
        self.options = {
            "data": self.data, "log-level": "debug", "log-format": "json",
            "api-listen": "127.0.0.1:0", "gateway-listen": "127.0.0.1:0",
            "metrics-listen": "127.0.0.1:0", "metrics-gateway-listen": "127.0.0.1:0",
            "engine-fake": FAKE_ENGINE, "engine-venv": CACHE / "engine",
            "engine-launcher": ROOT / "tools" / "engine" / "llamacpp-launcher.py",
            "model-dirs": CACHE / "models",
            "engine-remote-allow": "127.0.0.0/8",  # the servers elsewhere that tests make
            "gateway-threads": 2, "engine-probe-interval": "200ms", **(options or {})}
        self.args = list(args)
        self.process = None
        self.log = self.dir / "sekid.log"

    # ---- life ----

    def command(self, role=None):
        flags = [f"--{k}={v}" for k, v in self.options.items() if v is not None]
        return [str(SEKID), *flags, *self.args, *([f"--role={role}"] if role else [])]

    def start(self, wait=True):
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
               "TSAN_OPTIONS": f"suppressions={ROOT}/tests/tsan.supp:second_deadlock_stack=1"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout=30):
        wait_for(lambda: self.alive() and self.is_ready("metrics") and self.is_ready("metrics-gateway"), timeout, f"sekid to be ready ({self.tail()})")

    def alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"sekid ended with {self.process.returncode}: {self.tail()}")
        return True

    def is_ready(self, name):
        try:
            with urllib.request.urlopen(f"http://{self.address(name)}/readyz", timeout=5) as r:
                return r.status == 200
        except (OSError, FileNotFoundError):
            return False

    def stop(self, signo=signal.SIGINT, timeout=60):
        """SIGINT stops workloads too; SIGTERM leaves them."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signo)
        try:
            self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"sekid did not stop: {self.tail()}") from None

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind, *_):
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            if kind is None:
                self.check_sanitizers()
            if self.own_directory and not os.environ.get("SEKI_KEEP"):
                shutil.rmtree(self.dir, ignore_errors=True)

    def check_sanitizers(self):
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found = re.search(r"(ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:|WARNING: ThreadSanitizer).*", text)
        assert not found, text[max(0, found.start() - 200):found.start() + 4000]

    def role_pid(self, role):
        """The process id of a role that the supervisor runs."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            try:
                if f"--role={role}".encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    return int(pid)
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                pass
        return None

    def kill_role(self, role, signo=signal.SIGKILL):
        pid = wait_for(lambda: self.role_pid(role), what=f"role {role}")
        os.kill(pid, signo)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}") or self.role_pid(role) != pid, what=f"role {role} to end")
        return pid

    # ---- addresses ----

    def address(self, name):
        return (self.data / "run" / f"{name}.addr").read_text().strip()

    @property
    def kubeconfig(self):
        return str(self.data / "admin.kubeconfig")

    @property
    def api_url(self):
        return f"https://{self.address('api')}"

    @property
    def base_url(self):
        return f"http://{self.address('gateway')}/v1"

    def tail(self, size=3000):
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    # ---- the API, raw ----

    def api(self, method, path, body=None, content_type="application/json", headers=None, raw=False, context=None):
        """One request as admin. Returns the document; raises ApiError with the Status otherwise."""
        if context is None:
            context = ssl.create_default_context(cafile=str(self.data / "pki" / "ca.crt"))
            context.load_cert_chain(str(self.data / "pki" / "admin.crt"), str(self.data / "pki" / "admin.key"))
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(self.api_url + path, data=data, method=method, headers={"Content-Type": content_type, "Accept": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=30 * SLOW, context=context) as r:
                text = r.read()
                return text if raw else json.loads(text)
        except urllib.error.HTTPError as e:
            text = e.read()
            try:
                raise ApiError(e.code, json.loads(text)) from None
            except ValueError:
                raise ApiError(e.code, text) from None

    def metrics(self, name="metrics"):
        with urllib.request.urlopen(f"http://{self.address(name)}/metrics", timeout=10) as r:
            return r.read().decode()

    # ---- kubectl and seki ----

    def kubectl(self, *args, input=None, check=True):
        p = subprocess.run([KUBECTL, *args], input=input, text=True, capture_output=True, timeout=60 * SLOW,
                           env={**os.environ, "KUBECONFIG": self.kubeconfig, "HOME": str(self.dir), "KUBECACHEDIR": str(self.dir / "kubecache")})
        if check:
            assert p.returncode == 0, f"kubectl {' '.join(args)}: {p.stdout}{p.stderr}"
        return p

    def seki(self, *args, env=None, check=True, input=None):
        p = subprocess.run([str(SEKI), *args], input=input, text=True, capture_output=True, timeout=120 * SLOW,
                           env={**os.environ, "KUBECONFIG": self.kubeconfig, **(env or {})})
        if check:
            assert p.returncode == 0, f"seki {' '.join(args)}: {p.stdout}{p.stderr}"
        return p

    # ---- objects ----

    def tenant(self, name, **spec):
        """A Tenant, and with it a first project of its name."""
        return self.api("POST", f"{GROUP}/tenants", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec})

    def project(self, name, tenant=None):
        """A project of its own, or of a tenant, which is made when it is not there."""
        if tenant not in (None, name):
            try:
                self.tenant(tenant)
            except ApiError as e:
                if e.status != 409:
                    raise
        self.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"seki.cloud/tenant": tenant or name}}})
        return name

    def create(self, plural, ns, name, spec):
        kinds = {"models": "Model", "modelendpoints": "ModelEndpoint", "apikeys": "APIKey", "modelreplicas": "ModelReplica", "residencypolicies": "ResidencyPolicy", "nodepools": "NodePool", "modelroutes": "ModelRoute"}
        return self.api("POST", f"{GROUP}/namespaces/{ns}/{plural}", {"apiVersion": "seki.cloud/v1alpha1", "kind": kinds[plural], "metadata": {"name": name}, "spec": spec})

    def create_site(self, name, **spec):
        return self.api("POST", f"{GROUP}/sites", {"apiVersion": "seki.cloud/v1alpha1", "kind": "Site", "metadata": {"name": name}, "spec": spec})

    def get(self, plural, ns, name):
        return self.api("GET", f"{GROUP}/namespaces/{ns}/{plural}/{name}")

    def key(self, ns, name="key", **spec):
        """A new API key; returns the secret, once the gateway knows it."""
        secret = self.create("apikeys", ns, name, spec)["status"]["key"]
        wait_for(lambda: self.gateway_status("/models", secret) == 200, what="the gateway to know the key")
        return secret

    def gateway_status(self, path, key):
        request = urllib.request.Request(self.base_url + path, headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=10 * SLOW) as r:
                return r.status
        except urllib.error.HTTPError as e:
            return e.code

    def fake_endpoint(self, ns, name="fake", replicas=1, wait=True, **options):
        """A ModelEndpoint on the fake engine; options are the fake's (tokens_per_second=100 → tokensPerSecond)."""
        camel = {re.sub(r"_(\w)", lambda m: m[1].upper(), k): str(v) for k, v in options.items()}
        self.create("modelendpoints", ns, name, {"replicas": replicas, "engine": {"driver": "fake", "options": camel}})
        if wait:
            self.wait_condition("modelendpoints", ns, name)
        return name

    def remote_endpoint(self, ns, name, url, replicas=1, **engine):
        """A ModelEndpoint on a server elsewhere, ready; engine: more members of spec.engine."""
        self.create("modelendpoints", ns, name, {"replicas": replicas, "engine": {"driver": "openai", "url": url, **engine}})
        self.wait_condition("modelendpoints", ns, name)
        if replicas > 1:
            wait_for(lambda: self.get("modelendpoints", ns, name)["status"].get("readyReplicas") == replicas, what="all replicas")

    def serve(self, url, replicas=1):
        """Project demo with model m on a server elsewhere; returns a key's secret once the gateway serves the model."""
        self.project("demo")
        self.remote_endpoint("demo", "m", url, replicas)
        secret = self.key("demo")
        wait_for(lambda: self.gateway_status("/models/m", secret) == 200, what="the model")
        return secret

    def real_endpoint(self, ns, name, parallel=2, replicas=1):
        """A Model and a ModelEndpoint on llama.cpp with the small model of make run, which must be in the cache."""
        facts = json.loads((CACHE / "models/gemma3-270m/manifest.json").read_text())
        self.create("models", ns, name, {"source": f"file://{CACHE}/models/gemma3-270m", "format": "GGUF", "files": facts["files"], "license": facts["license"], "capabilities": ["Completion"]})
        self.create("modelendpoints", ns, name, {"model": name, "replicas": replicas, "engine": {"contextLength": 512, "parallel": parallel}})
        self.wait_condition("modelendpoints", ns, name, timeout=120)
        wait_for(lambda: self.get("modelendpoints", ns, name)["status"]["readyReplicas"] == replicas, 120, "all replicas")
        return name

    def condition(self, plural, ns, name, kind="Ready"):
        obj = self.get(plural, ns, name)
        return next((c for c in obj.get("status", {}).get("conditions", []) if c["type"] == kind), {})

    def wait_condition(self, plural, ns, name, kind="Ready", status="True", reason=None, timeout=30):
        seen = {}

        def holds():
            seen.update(self.condition(plural, ns, name, kind))
            return seen.get("status") == status and (reason is None or seen.get("reason") == reason)
        try:
            wait_for(holds, timeout, f"{plural}/{name} {kind}={status}")
        except AssertionError as e:
            raise AssertionError(f"{e}; condition {seen}; log: {self.tail()}") from None
        return dict(seen)
