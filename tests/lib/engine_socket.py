"""An engine's own socket, which only the gateway should use: for tests that look at its counters, or go around the gateway."""
import http.client
import socket

from cloud import SLOW, wait_for


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("engine", timeout=20 * SLOW)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def sockets(c):
    return sorted((c.data / "run" / "engines").glob("*.sock"))


def call(path, method, target, body=None):
    connection = Unix(path)
    connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse().read()
    connection.close()
    return answer


def counters(path):
    """Tokens that the engine has read and written so far, when it is at rest."""
    def look():
        values = dict(line.split() for line in call(path, "GET", "/metrics").decode().splitlines() if line.startswith("llamacpp:"))
        return float(values["llamacpp:requests_processing"]) == 0 and (float(values["llamacpp:prompt_tokens_total"]), float(values["llamacpp:tokens_predicted_total"]))
    return wait_for(look, what="the engine to be at rest")
