"""A stream of the real engine that counts, and the death of the engine in its middle: a number twice or a number that lacks shows at once."""
import http.client
import json
import os
import re
import signal

from cloud import SLOW, wait_for

UP_TO = 16
PROMPT = " ".join(str(n) for n in range(1, UP_TO + 1))


class Counting:
    """A completion as a stream, with usage. `take(n)` reads until so many whole numbers have come; `rest()` until the end."""

    def __init__(self, cloud, key, model, max_tokens):
        self.connection = http.client.HTTPConnection(*cloud.address("gateway").split(":"), timeout=60 * SLOW)
        body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        assert self.answer.status == 200, (self.answer.status, self.answer.read())
        self.events, self.done = [], False

    def _next(self):
        while line := self.answer.readline():
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                self.done = True
            else:
                self.events.append(json.loads(line[6:]))
            return True
        return False

    @property
    def text(self):
        return "".join(c["text"] for e in self.events for c in e.get("choices", []))

    @property
    def numbers(self):
        """Whole ones: behind the last one more text may come."""
        return [int(n) for n in re.findall(r"\d+(?=\D)", self.text if not self.done else self.text + " ")]

    def take(self, n):
        while len(self.numbers) < n:
            assert self._next(), self.events
        return self.text

    def rest(self):
        while not self.done and self._next():
            pass
        self.connection.close()
        return self.text

    def check(self):
        """One answer: whole, counted once, each number one more than the one before it."""
        assert self.done and not any("error" in e for e in self.events), self.events[-3:]
        assert len({e["id"] for e in self.events}) == 1
        assert [c["finish_reason"] for e in self.events for c in e.get("choices", []) if c["finish_reason"]] == ["length"]
        usage = [e["usage"] for e in self.events if e.get("usage")]
        assert len(usage) == 1, usage
        numbers = self.numbers[:-1]  # the last one may be cut by max_tokens
        assert numbers == list(range(UP_TO + 1, UP_TO + 1 + len(numbers))), self.text
        return usage[0]


def _cpu_ns(pid):
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total


def engine_pids(cloud, ns, model, replicas):
    def pids():
        found = [cloud.get("modelreplicas", ns, f"{model}-{i}").get("status", {}).get("pid") for i in range(replicas)]
        return all(found) and found
    return wait_for(pids, what="all engines")


class Engines:
    """The engines of an endpoint, of which the one that works is to be killed. They are stopped first, so that it has not finished when it is found."""

    def __init__(self, pids):
        self.before = {pid: _cpu_ns(pid) for pid in pids}

    def kill_the_busy_one(self):
        for pid in self.before:
            os.kill(pid, signal.SIGSTOP)
        busy = max(self.before, key=lambda pid: _cpu_ns(pid) - self.before[pid])
        os.kill(busy, signal.SIGKILL)
        for pid in self.before:
            if pid != busy:
                os.kill(pid, signal.SIGCONT)
        return busy
