"""The OpenTelemetry collector's receiver: tools/otlp-receiver."""
import json
import socket
import subprocess
import threading

from cloud import ROOT, wait_for


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def value_of(value):
    """Of an attribute, in OTLP's JSON."""
    kind, v = next(iter(value.items()))
    return int(v) if kind == "intValue" else v


class Collector:
    """Runs while it is a context manager; may be ended and started again at the same address. `spans`: all that it took, each with its attributes as a dictionary and its resource's."""

    def __init__(self):
        self.address = f"127.0.0.1:{free_port()}"
        self.endpoint = f"http://{self.address}"
        self.spans, self.process = [], None

    def start(self):
        program = subprocess.run([ROOT / "scripts" / "otlp-receiver"], capture_output=True, text=True, timeout=1200)
        assert program.returncode == 0, program.stderr
        self.process = subprocess.Popen([program.stdout.strip(), self.address], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "listens\n"
        threading.Thread(target=self.read, args=(self.process.stdout,), daemon=True).start()
        return self

    def read(self, lines):
        for line in lines:
            for resource in json.loads(line)["resourceSpans"]:
                of = {a["key"]: value_of(a["value"]) for a in resource["resource"]["attributes"]}
                for scope in resource["scopeSpans"]:
                    self.spans += [{**s, "attributes": {a["key"]: value_of(a["value"]) for a in s.get("attributes", [])}, "resource": of} for s in scope["spans"]]

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    __enter__ = start

    def __exit__(self, *_):
        self.stop()

    def trace(self, trace_id, count=1):
        """The spans of a trace, oldest first, once there are so many."""
        of = lambda: sorted((s for s in list(self.spans) if s["traceId"] == trace_id), key=lambda s: (int(s["startTimeUnixNano"]), s["kind"] != 2))
        return wait_for(lambda: len(of()) >= count and of(), what=f"{count} spans of {trace_id}")
