"""A client of a cluster that writes all the time: how long was nothing taken, and what was said to what was not?"""
import http.client
import json
import ssl
import threading
import time
import urllib.error
import urllib.request

from cloud import wait_for


class Writer(threading.Thread):
    """Writes one ConfigMap over and over, a connection for each write, trying again what fails. `gaps`: seconds from one write that was taken to the next; `refused`: answers that refuse it;
    `lost`: tries that found no connection, or lost it. limit: seconds for a try."""

    def __init__(self, cluster, limit=5):
        super().__init__(daemon=True)
        pki = cluster.directory / "pki"
        self.context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self.context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self.url = cluster.get()["status"]["endpoint"] + "/api/v1/namespaces/default/configmaps/written"
        self.limit, self.taken, self.refused, self.lost, self.ends = limit, 0, [], [], threading.Event()
        self.forget()
        self.start()

    def forget(self):
        self.gaps, self.last = [], time.monotonic()

    def write(self, count):
        body = json.dumps({"data": {"count": str(count)}}).encode()
        r = urllib.request.Request(self.url, body, {"Content-Type": "application/merge-patch+json"}, method="PATCH")
        with urllib.request.urlopen(r, context=self.context, timeout=self.limit) as answer:
            return json.load(answer)["data"]["count"]

    def run(self):
        while not self.ends.wait(0.02):
            try:
                assert self.write(self.taken + 1) == str(self.taken + 1)
            except urllib.error.HTTPError as e:
                self.refused.append((e.code, e.read()[:300]))
                continue
            except (OSError, http.client.HTTPException) as e:
                self.lost.append(repr(e))
                continue
            now = time.monotonic()
            self.taken += 1
            self.gaps.append(now - self.last)
            self.last = now

    @property
    def failed(self):
        return len(self.refused) + len(self.lost)

    @property
    def longest(self):
        return max(self.gaps)

    def more(self, n=5, timeout=60):
        count = self.taken
        wait_for(lambda: self.taken > count + n, timeout, "writes")

    def end(self):
        self.ends.set()
        self.join()
        return f"{self.taken} writes, {len(self.lost)} connections cut, {len(self.refused)} refused, longest {self.longest:.2f} s"
