"""What the torture suite tortures."""
from cloud import wait_for
from wire import RawClient, answer, post


class Target:
    """A gateway: where it listens, a key, a model. cloud: when it is ours. engine: what serves the model; None: a stranger does."""

    def __init__(self, address, key, model, engine, cloud=None):
        self.address, self.key, self.model, self.engine, self.cloud = address, key, model, engine, cloud

    def chat(self, stream=True, **more):
        return {"model": self.model, "messages": [{"role": "user", "content": "hi"}], **({"stream": True} if stream else {}), **more}

    def send(self, client, body=None, **how):
        client.send(post(self.key, self.chat() if body is None else body, **how))

    def ask(self, body=None, **how):
        with RawClient(self.address) as client:
            self.send(client, body, **how)
            return client.response()

    def well(self):
        """It serves as if nothing had been."""
        if self.engine:
            self.engine.script, self.engine.first[:] = [answer()], []
        return wait_for(lambda: self.ask(self.chat(stream=False)).status == 200, what="the gateway to be well")
