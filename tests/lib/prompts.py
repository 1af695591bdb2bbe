"""Distinct prompts, many: no two have a beginning in common, so that whatever a gateway keeps of one is of no use for the next."""
from wire import RawClient, post

SIZE = 2048          # bytes of a prompt
CONNECTIONS = 32


class Distinct:
    """Sends them over connections that stay, as many at once as there are connections."""

    def __init__(self, address, key, model):
        self.clients = [RawClient(address) for _ in range(CONNECTIONS)]
        self.sent = 0
        marked = post(key, {"model": model, "messages": [{"role": "user", "content": "N" * 12 + " hello" * (SIZE // 6)}], "max_tokens": 1})
        self.head, _, self.rest = marked.partition(b"N" * 12)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()

    def up_to(self, count):
        """Until that many were sent, all in all, and answered."""
        while self.sent < count:
            busy = self.clients[:count - self.sent]
            for client in busy:
                client.send(self.head + b"%012d" % self.sent + self.rest)
                self.sent += 1
            for client in busy:
                got = client.response()
                assert got.status == 200, got
