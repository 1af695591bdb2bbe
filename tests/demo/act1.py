"""Act 1: an existing OpenAI program runs on Seki with only base URL and key changed; the engine is killed, comes back by itself, and the conditions tell the story."""
import os
import signal
import subprocess
import sys
import time

from cloud import Cloud, wait_for

PROGRAM = """
import openai
client = openai.OpenAI()
r = client.completions.create(model="gemma", prompt="The capital of Japan is", max_tokens=12, temperature=0)
print(r.choices[0].text.strip().splitlines()[0], "|", r.usage.total_tokens, "tokens")
"""


def say(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(text):
    print("    " + text.strip().replace("\n", "\n    "), flush=True)


def run_program(cloud, key):
    p = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "OPENAI_BASE_URL": cloud.base_url, "OPENAI_API_KEY": key})
    assert p.returncode == 0, p.stderr
    return p.stdout


def conditions(cloud):
    rows = cloud.get("modelendpoints", "demo", "gemma")["status"]["conditions"]
    return "\n".join(f"{c['type']:<14} {c['status']:<8} {c['reason']:<20} {c['message']}" for c in rows)


def main():
    say("Act 1. A cloud on an empty machine.")
    begun = time.monotonic()
    with Cloud(options={"log-level": "info", "engine-probe-interval": "500ms"}) as cloud:
        cloud.project("demo")
        cloud.real_endpoint("demo", "gemma")
        show(f"sekid started, the model was verified against its digest, the engine is up: {time.monotonic() - begun:.1f} s")
        show(conditions(cloud))

        say("An existing OpenAI program, only base URL and key changed:")
        key = cloud.key("demo", "program")
        wait_for(lambda: cloud.gateway_status("/models/gemma", key) == 200, what="the model")
        answer = run_program(cloud, key)
        assert "Tokyo" in answer, answer
        show(answer)

        say("The engine is killed (kill -9):")
        before = cloud.get("modelreplicas", "demo", "gemma-0")["status"]["pid"]
        os.kill(before, signal.SIGKILL)
        killed = time.monotonic()
        seen = []

        def story():
            cond = cloud.condition("modelendpoints", "demo", "gemma")
            line = f"Ready={cond.get('status')} {cond.get('reason')}: {cond.get('message')}"
            if not seen or seen[-1] != line:
                seen.append(line)
                show(f"{time.monotonic() - killed:5.1f} s  {line}")
            now = cloud.get("modelreplicas", "demo", "gemma-0")["status"].get("pid")
            return now not in (None, 0, before) and cond.get("status") == "True"
        wait_for(story, 60, "the engine to come back")
        assert any("Ready=False" in line for line in seen), "the conditions did not tell"
        show(cloud.kubectl("-n", "demo", "get", "modelendpoints,modelreplicas").stdout)
        answer = run_program(cloud, key)
        assert "Tokyo" in answer, answer
        show("and the same program answers again: " + answer)

        say("What was used, counted once:")

        def used():
            text = cloud.seki("-n", "demo", "usage").stdout
            row = next((line.split() for line in text.splitlines() if " program " in line), None)
            return text if row and row[4] == "2" else None
        show(wait_for(used, what="both runs in the usage report"))
    say(f"Act 1 held, in {time.monotonic() - begun:.0f} s.")


main()
