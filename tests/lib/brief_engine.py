"""llama.cpp with the small model, made brief: whoever asks it for an answer gets at most so many tokens, and always the same ones.

Other people's suites say how long answers may be, which takes a small machine minutes each. Between them and the engine (or the gateway and the engine) stands a server that changes only that.
"""
import http.client
import http.server
import json
import subprocess
import threading

from cloud import CACHE, ROOT, wait_for
from collector import free_port

TOKENS = 6
LIMITS = {"chat/completions": "max_tokens", "completions": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}


def brief(path, body):
    """The request, asking for less; what is none stays as it is."""
    limit = LIMITS.get(path.removeprefix("/v1/"))
    try:
        said = json.loads(body)
    except ValueError:
        return body
    if not limit or not isinstance(said, dict):
        return body
    return json.dumps(said | {limit: TOKENS, "temperature": 0, "seed": 1}).encode()


class BriefEngine:
    def __init__(self, context=512, timeout=300):
        """timeout: of one answer."""
        self.engine, self.timeout = free_port(), timeout
        model = next((CACHE / "models" / "gemma3-270m").glob("*.gguf"))
        self.process = subprocess.Popen([str(CACHE / "engine" / "bin" / "python"), str(ROOT / "tools" / "engine" / "llamacpp-launcher.py"), "--model", str(model), "--listen", f"127.0.0.1:{self.engine}",
                                         "--ctx-size", str(context), "--parallel", "1", "--threads", "1", "--alias", "m"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.pass_on(self, None)

            def do_POST(self):
                outer.pass_on(self, brief(self.path, self.rfile.read(int(self.headers.get("content-length", 0)))))

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        try:
            wait_for(self.healthy, 120, "the engine")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.process.kill()
        self.process.wait()

    def healthy(self):
        assert self.process.poll() is None, "the engine has ended"
        try:
            return self.ask("GET", "/health").status == 200
        except OSError:
            return False

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.engine, timeout=self.timeout)
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        return connection.getresponse()

    def pass_on(self, asked, body):
        try:
            self.answer(asked, self.ask(asked.command, asked.path, body))
        except (ConnectionError, http.client.HTTPException):  # who asked has left, or the engine has ended: the connection tells the other
            asked.close_connection = True

    @staticmethod
    def answer(asked, answer):
        asked.send_response(answer.status)
        asked.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        if "text/event-stream" in answer.headers.get("Content-Type", ""):
            asked.send_header("Connection", "close")
            asked.end_headers()
            while piece := answer.read1(65536):
                asked.wfile.write(piece)
            return
        whole = answer.read()
        asked.send_header("Content-Length", str(len(whole)))
        asked.end_headers()
        asked.wfile.write(whole)
