#!/usr/bin/env python3
"""Runs llama.cpp's HTTP server from the xllamacpp wheel, with the flags that Seki's driver gives.

It serves until SIGTERM or SIGINT, with /health and /metrics on and nothing of what users send in its log. Errors are one line on stderr and a non-zero exit.
"""
import argparse
import os
import re
import signal
import socket
import stat
import sys

BATCH_TOKENS = 512

# What may be said once requests come: failures of the library itself, with the text of its own sources in them.
OWN_FAILURE = re.compile(rb"\S+:\d+: GGML_ASSERT\(|CUDA error|ggml_(backend|cuda|gallocr|aligned_malloc)\w*: ")

# A plain format, for models that come without a chat template: base models.
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def fail(message, status=1):
    print(f"llamacpp-launcher: {message}", file=sys.stderr, flush=True)
    os._exit(status)


def arguments():
    p = argparse.ArgumentParser(prog="llamacpp-launcher", description=__doc__)
    p.add_argument("--model", required=True, metavar="FILE", help="GGUF file")
    p.add_argument("--listen", required=True, metavar="ADDRESS", help="unix:/PATH.sock or HOST:PORT")
    p.add_argument("--ctx-size", type=int, default=2048, metavar="N", help="tokens of context for each slot")
    p.add_argument("--parallel", type=int, default=1, metavar="N", help="slots: requests worked on at a time")
    p.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads; 0: as many as there are cores")
    p.add_argument("--alias", default="model", metavar="NAME", help="the model's name in answers")
    p.add_argument("--embeddings", action="store_true", help="serve embeddings instead of text")
    p.add_argument("--lora", action="append", default=[], metavar="FILE", help="an adapter, in effect for requests that name its number; repeat for more")
    p.add_argument("--reranking", action="store_true", help="score documents by a query instead of serving text; needs a model that is made for it")
    a = p.parse_args()
    if a.ctx_size < 1 or a.parallel < 1 or a.threads < 0:
        p.error("--ctx-size and --parallel must be at least 1, --threads at least 0")
    return a


def place(listen):
    """Host and port as llama.cpp wants them: a host that ends in .sock is a unix socket."""
    if not listen.startswith("unix:"):
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit():
            fail(f"--listen {listen}: expected unix:/PATH.sock or HOST:PORT", 2)
        return host.strip("[]"), int(port)
    path = listen.removeprefix("unix:")
    if not path.startswith("/") or not path.endswith(".sock"):
        fail(f"--listen {listen}: expected unix:/PATH.sock", 2)
    if len(path.encode()) > 107:
        fail(f"--listen {listen}: a socket's path has at most 107 bytes", 2)
    remove_stale(path)
    return path, 0


def remove_stale(path):
    """A socket left by a killed server; one that answers is somebody's."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            fail(f"{path} is there and is no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX)
    probe.settimeout(1)
    try:
        probe.connect(path)
        fail(f"{path}: another server listens there")
    except OSError:
        os.unlink(path)
    finally:
        probe.close()


def parameters(xllamacpp, a, host, port):
    p = xllamacpp.CommonParams()
    p.model.path = a.model
    p.model_alias = [a.alias] if isinstance(p.model_alias, (list, set)) else a.alias
    p.hostnames = [host]
    p.port = port
    p.n_parallel = a.parallel
    p.n_ctx = a.ctx_size * a.parallel  # llama.cpp counts the whole
    threads = a.threads or os.cpu_count() or 1
    p.cpuparams.n_threads = threads
    p.cpuparams_batch.n_threads = threads
    # Each request holds a thread, waiting ones too; /health and /metrics must still be answered, or a busy server looks like a dead one.
    p.n_threads_http = 2 * a.parallel + 16
    p.endpoint_metrics = True
    p.endpoint_slots = False
    p.endpoint_props = False
    p.ui = False
    p.verbosity = 1  # errors: more would show prompts
    p.warmup = True
    p.kv_unified = False
    # Tenants share this server: what a prompt left is used again only when a request says so, and lies nowhere but in its slot.
    p.cache_prompt = False
    p.cache_ram_mib = 0
    p.cache_idle_slots = False
    if a.lora:
        p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in a.lora]
        p.lora_init_without_apply = True
    if a.embeddings:
        p.embedding = True
        p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if a.reranking:
        p.embedding = True
        p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    if a.embeddings or a.reranking:
        # It needs its whole text in one batch.
        p.n_batch = p.n_ubatch = a.ctx_size
    else:
        # A batch is the step in which progress shows in /metrics: a long prompt in one step would look like a server that hangs.
        p.n_batch = p.n_ubatch = BATCH_TOKENS
    return p


def end(host):
    """Requests end with us; the gateway says so to its clients."""
    if host.startswith("/"):
        try:
            os.unlink(host)
        except OSError:
            pass
    os._exit(0)


def withholder():
    """The writing end of a pipe to a process that keeps back what requests may have brought, and writes on what is left. Verbosity is not enough: what is wrong with a
    grammar or a schema is written past the library's log, with the grammar in it. Made before the model is loaded, while this program is small."""
    out, into = os.pipe()
    if os.fork():
        os.close(out)
        return into
    os.close(into)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # it ends when the server has
    rest, cut = b"", False
    while data := os.read(out, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if OWN_FAILURE.match(line) and not cut:
                os.write(2, line[:1024] + b"\n")
            cut = False
        if len(rest) > 65536:  # no line of the library's own
            rest, cut = b"", True
    os._exit(0)


def has_template(path):
    """Whether the GGUF file's head names a chat template."""
    with open(path, "rb") as f:
        return b"tokenizer.chat_template" in f.read(32 << 20)


def main():
    a = arguments()
    if not os.path.isfile(a.model):
        fail(f"--model {a.model}: no such file")
    with open(a.model, "rb") as f:
        if f.read(4) != b"GGUF":
            fail(f"--model {a.model}: not a GGUF file")
    host, port = place(a.listen)
    into = withholder()
    try:
        import xllamacpp
    except ImportError as e:
        fail(f"the xllamacpp package cannot be loaded: {e}")
    p = parameters(xllamacpp, a, host, port)
    if not a.embeddings and not a.reranking and not has_template(a.model):
        p.chat_template = PLAIN_TEMPLATE
        p.use_jinja = True
    # While the model loads, Python runs no handlers: a signal must end the program by itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o077)
    try:
        server = xllamacpp.Server(p)
    except Exception as e:  # noqa: BLE001 - whatever the library throws ends this program
        fail(f"llama.cpp did not start: {e}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end(host))
    print(f"serving {a.alias} on {server.listening_address}", flush=True)
    os.dup2(into, 1)
    os.dup2(into, 2)
    os.close(into)
    while True:
        signal.pause()


main()
