"""A client of a cluster that writes all the time: how long was nothing taken?"""
import http.client
import json
import ssl
import threading
import time
import urllib.request


class Writer(threading.Thread):
    """Writes one ConfigMap over and over, trying again what fails. `gaps`: seconds from one write that was taken to the next."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        pki = cluster.directory / "pki"
        self.context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self.context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        self.url = cluster.get()["status"]["endpoint"] + "/api/v1/namespaces/default/configmaps/written"
        self.gaps, self.failed, self.taken, self.last, self.ends = [], 0, 0, time.monotonic(), threading.Event()
        self.start()

    def write(self):
        body = json.dumps({"data": {"count": str(self.taken + 1)}}).encode()
        r = urllib.request.Request(self.url, body, {"Content-Type": "application/merge-patch+json"}, method="PATCH")
        with urllib.request.urlopen(r, context=self.context, timeout=5) as answer:
            return json.load(answer)["data"]["count"]

    def run(self):
        while not self.ends.wait(0.02):
            try:
                self.write()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                continue
            now = time.monotonic()
            self.taken += 1
            self.gaps.append(now - self.last)
            self.last = now

    @property
    def longest(self):
        return max(self.gaps)

    def end(self):
        """What was said to be written is there."""
        self.ends.set()
        self.join()
        return self.longest

    def forget(self):
        self.gaps, self.last = [], time.monotonic()
