"""Act 3: an engine is killed in the middle of a stream, and the text goes on in the same stream from another one: nothing twice, nothing missing, billed once."""
import subprocess
import sys
import time

from cloud import Cloud, wait_for
from counting import PROMPT, Counting, Engines, engine_pids

TOKENS = 45


def say(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(text):
    print("    " + text.strip().replace("\n", "\n    "), flush=True)


def main():
    begun = time.monotonic()
    say("Act 3. One model, two engines, and a program that counts.")
    with Cloud(options={"log-level": "info", "engine-probe-interval": "500ms"}) as cloud:
        cloud.project("demo")
        cloud.real_endpoint("demo", "gemma", parallel=1, replicas=2)
        key = cloud.key("demo", "counter")
        wait_for(lambda: cloud.gateway_status("/models/gemma", key) == 200, what="the model")
        pids = engine_pids(cloud, "demo", "gemma", 2)
        show(f"two engines run (processes {pids[0]} and {pids[1]}): {time.monotonic() - begun:.1f} s")

        say("A stream is asked for; the engine that writes it is killed (kill -9) in its middle:")
        engines = Engines(pids)
        stream = Counting(cloud, key, "gemma", TOKENS)
        before = stream.take(3)
        killed = engines.kill_the_busy_one()
        at = time.monotonic()
        known = len(stream.text)
        stream.take(len(stream.numbers) + 2)
        waited = time.monotonic() - at
        text = stream.rest()
        usage = stream.check()
        assert len(text) > known and usage["completion_tokens"] == TOKENS, (text, usage)
        show(f"{PROMPT}\033[1m{before}\033[0m" if sys.stdout.isatty() else PROMPT + before)
        show(f"  … process {killed} is killed; the next numbers come from the other engine, {waited:.1f} s later …")
        show(text[len(before):])
        show(f"one stream, one id, no error, {usage['completion_tokens']} tokens, each number once")

        say("What the program is billed:")

        def billed():
            table = cloud.seki("-n", "demo", "usage").stdout
            row = next((line.split() for line in table.splitlines() if " counter " in line), None)
            return table if row and row[4] == "1" else None
        table = wait_for(billed, what="the usage report")
        assert any(str(TOKENS) in line.split() for line in table.splitlines() if " counter " in line), table
        show(table)
    say(f"Act 3 held, in {time.monotonic() - begun:.0f} s.")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.SubprocessError) as e:
        sys.exit(f"Act 3 did not hold: {e}")
