"""Simulated engines with what makes routing matter: batches, a price of prefill, a cache of prefixes that has a size. One process, a port an engine.

  engines.py --ports 20001,20002 [--slow 20002:3] [--die 20001:12]

A model of a server that batches continuously, of a 7B model on one GPU, in rough figures: a step takes STEP_S, SEQUENCE_S more for each sequence that decodes, and the time of the piece of
prefill that goes with it (PREFILL_PER_S, at most PIECE tokens a step). SLOTS sequences run, others wait in order. Blocks of BLOCK tokens stay cached, the least recently used goes
first. Four bytes are a token. Times are real; nothing is computed. --slow: an engine takes so many times as long, --stretch: all of them do; --die: it ends its connections and its listener after so many seconds
from the first request on. --log: a line of JSON for each sequence that ended: which engine, a name of its beginning, when it came (s, of this process's clock), its tokens, how many of them were
cached, how long it waited for a place and for its first token.
"""
import argparse
import asyncio
import collections
import json
import time

STEP_S, SEQUENCE_S, PREFILL_PER_S, PIECE, SLOTS, BLOCK, CACHE_BLOCKS = 0.012, 0.0007, 6000, 512, 8, 64, 400
JSON_TYPE = "application/json"


class Sequence:
    def __init__(self, writer, text, count, stream):
        self.writer, self.count, self.stream, self.made, self.gone = writer, count, stream, 0, False
        self.tokens = max(len(text) // 4, 1)
        step, self.blocks, before = BLOCK * 4, [], 0
        for at in range(0, len(text) - step + 1, step):
            before = hash((before, text[at:at + step]))
            self.blocks.append(before)
        self.cached = self.to_fill = 0
        self.came, self.placed, self.first = time.monotonic(), None, None
        self.over = asyncio.get_running_loop().create_future()


class Engine:
    def __init__(self, port, slow, die, log):
        self.port, self.slow, self.die, self.log = port, slow, die, log
        self.waiting, self.running, self.cache, self.writers = collections.deque(), [], collections.OrderedDict(), set()
        self.wake, self.dead, self.begun = asyncio.Event(), False, False
        self.requests = self.prompt = self.cached = self.made = 0

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1024)
        self.task = asyncio.create_task(self.steps())

    def end(self):
        self.dead = True
        self.server.close()
        for w in list(self.writers):
            w.transport.abort()

    def admit(self):
        while self.waiting and len(self.running) < SLOTS:
            s = self.waiting.popleft()
            if s.gone:
                continue
            hits = 0
            for b in s.blocks:
                if b not in self.cache:
                    break
                hits += 1
            for b in s.blocks:
                self.cache[b] = True
                self.cache.move_to_end(b)
            while len(self.cache) > CACHE_BLOCKS:
                self.cache.popitem(last=False)
            s.placed = time.monotonic()
            s.cached = min(hits * BLOCK, s.tokens - 1)
            s.to_fill = s.tokens - s.cached
            self.prompt += s.tokens
            self.cached += s.cached
            self.running.append(s)

    async def steps(self):
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            self.running = [s for s in self.running if not s.gone]
            self.admit()
            if not self.running:
                self.wake.clear()
                await self.wake.wait()
                continue
            piece = PIECE
            decoding = [s for s in self.running if not s.to_fill]
            filled = []
            for s in self.running:
                if s.to_fill and piece:
                    part = min(piece, s.to_fill)
                    piece -= part
                    s.to_fill -= part
                    if not s.to_fill:
                        filled.append(s)
            took = (STEP_S + SEQUENCE_S * len(decoding) + (PIECE - piece) / PREFILL_PER_S) * self.slow
            due = max(due, loop.time() - took) + took  # a late timer does not make the engine slower
            await asyncio.sleep(due - loop.time())
            for s in decoding + filled:
                self.token(s)
            self.running = [s for s in self.running if not s.over.done()]

    def token(self, s):
        s.made += 1
        s.first = s.first or time.monotonic()
        self.made += 1
        if s.stream and not s.gone:
            self.chunk(s, {"choices": [{"index": 0, "delta": {"content": f" w{s.made}"}, "finish_reason": None}]})
        if s.made >= s.count or s.gone:
            s.over.set_result(None)
            if self.log:
                line = {"engine": self.port, "beginning": s.blocks[min(len(s.blocks), 8) - 1] if s.blocks else 0, "at": round(s.came, 3), "tokens": s.tokens, "cached": s.cached,
                        "wait": round(s.placed - s.came, 3), "first": round(s.first - s.came, 3), "all": round(time.monotonic() - s.came, 3)}
                print(json.dumps(line), file=self.log, flush=True)

    def chunk(self, s, event):
        data = b"data: " + (event if isinstance(event, bytes) else json.dumps({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", **event}).encode()) + b"\n\n"
        s.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while not self.dead:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                asked = head.split(" ")
                if len(asked) < 3 or not asked[1].startswith("/"):  # a guess that we speak HTTP/2
                    return
                length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                await self.answer(asked[1], body, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    def plain(self, writer, body, kind=JSON_TYPE, status="200 OK"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)

    async def answer(self, path, body, reader, writer):
        if path.startswith("/v1/chat/completions"):
            await self.chat(json.loads(body), reader, writer)
        elif path == "/metrics":
            used = len(self.cache) / CACHE_BLOCKS
            self.plain(writer, f"vllm:num_requests_running {len(self.running)}\nvllm:num_requests_waiting {len(self.waiting)}\nvllm:kv_cache_usage_perc {used:.3f}\n".encode(), "text/plain")
        elif path == "/stats":
            self.plain(writer, {"requests": self.requests, "prompt": self.prompt, "cached": self.cached, "made": self.made})
        elif path == "/v1/models":
            self.plain(writer, {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "x", "created": 1}]})
        else:  # /health, and what routers ask to know whom they have before them
            self.plain(writer, {"status": "ok", "model_path": "m", "served_model_name": "m", "is_generation": True, "model_id": "m"})

    async def chat(self, ask, reader, writer):
        self.requests += 1
        if self.die and not self.begun:
            self.begun = True
            asyncio.get_running_loop().call_later(self.die, self.end)
        text = "".join(m["role"] + ":" + m["content"] for m in ask["messages"])
        s = Sequence(writer, text, ask.get("max_completion_tokens") or ask.get("max_tokens") or 16, bool(ask.get("stream")))
        if s.stream:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.waiting.append(s)
        self.wake.set()
        left = asyncio.create_task(reader.read(1))
        await asyncio.wait({s.over, left}, return_when=asyncio.FIRST_COMPLETED)
        if not s.over.done():
            s.gone = True
            raise ConnectionError
        left.cancel()
        try:
            await left
        except asyncio.CancelledError:
            pass
        usage = {"prompt_tokens": s.tokens, "completion_tokens": s.made, "total_tokens": s.tokens + s.made, "prompt_tokens_details": {"cached_tokens": s.cached}}
        if not s.stream:
            self.plain(writer, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
                                "choices": [{"index": 0, "message": {"role": "assistant", "content": "w"}, "finish_reason": "length"}]})
            return
        self.chunk(s, {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        self.chunk(s, {"choices": [], "usage": usage})
        self.chunk(s, b"[DONE]")
        writer.write(b"0\r\n\r\n")


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("--ports", required=True)
    p.add_argument("--slow", default="")
    p.add_argument("--die", default="")
    p.add_argument("--stretch", type=float, default=1)
    p.add_argument("--log", type=argparse.FileType("w"))
    a = p.parse_args()

    def of(text, port, default):
        return next((float(v) for k, v in (x.split(":") for x in text.split(",") if x) if int(k) == port), default)
    engines = [Engine(int(port), a.stretch * of(a.slow, int(port), 1.0), of(a.die, int(port), 0.0), a.log) for port in a.ports.split(",")]
    for e in engines:
        await e.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
