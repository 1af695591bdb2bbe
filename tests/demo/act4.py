"""Act 4: a prompt that is bound to one country is served there, and refused with the rule's name and an audit record when only a foreign site is free."""
import http.client
import json
import subprocess
import sys
import time

from cloud import Cloud, wait_for


def say(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(text):
    print("    " + text.strip().replace("\n", "\n    "), flush=True)


def ask(cloud, key, model):
    connection = http.client.HTTPConnection(*cloud.address("gateway").split(":"), timeout=120)
    connection.request("POST", "/v1/completions", json.dumps({"model": model, "prompt": "The capital of Japan is", "max_tokens": 8, "temperature": 0}),
                       {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    r = connection.getresponse()
    r.doc = json.loads(r.read())
    connection.close()
    return r


def main():
    begun = time.monotonic()
    say("Act 4. A clinic in Tokyo may not send what patients say abroad.")
    with Cloud(options={"site": "paris"}) as abroad, Cloud(options={"site": "tokyo"}) as cloud:
        abroad.project("france")
        abroad.real_endpoint("france", "gemma", parallel=1)
        foreign = abroad.key("france")
        cloud.project("clinic")
        cloud.real_endpoint("clinic", "here", parallel=1)
        address = abroad.address("gateway")
        cloud.create_site("tokyo", jurisdiction="JP", operator="Example Telecom")
        cloud.create_site("paris", jurisdiction="FR", servers=[address])
        cloud.api("POST", "/api/v1/namespaces/clinic/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "paris"}, "stringData": {"apiKey": foreign}})
        cloud.create("modelendpoints", "clinic", "abroad", {"engine": {"driver": "openai", "url": f"http://{address}/v1", "remoteModel": "gemma", "secret": "paris"}})
        cloud.wait_condition("modelendpoints", "clinic", "abroad")
        key = cloud.key("clinic")
        wait_for(lambda: cloud.gateway_status("/models/abroad", key) == 200, what="the model abroad")
        r = ask(cloud, key, "abroad")
        assert r.status == 200 and r.getheader("x-seki-site") == "paris", (r.status, r.doc)
        show(f"without a rule, model abroad: 200, x-seki-site: paris, {r.doc['choices'][0]['text']!r}")

        say("Its admin binds it to Japan.")
        cloud.create("residencypolicies", "clinic", "only-japan", {"jurisdictions": ["JP"]})
        wait_for(lambda: ask(cloud, key, "abroad").status == 403, what="the rule")
        served = usage(abroad)
        r = ask(cloud, key, "abroad")
        assert r.status == 403 and r.doc["error"]["code"] == "residency_denied" and "clinic/only-japan" in r.doc["error"]["message"]
        show(f"model abroad: 403, {r.doc['error']['message']}")
        r = ask(cloud, key, "here")
        assert r.status == 200 and r.getheader("x-seki-site") == "tokyo", (r.status, r.doc)
        show(f"model here: 200, x-seki-site: tokyo, {r.doc['choices'][0]['text']!r}")
        assert usage(abroad) == served
        show(f"requests that Paris has seen since: {usage(abroad) - served}")

        def record():
            return [line for line in cloud.seki("audit", "list", str(cloud.data / "ledger"), "--tenant", "clinic").stdout.splitlines() if "only-japan" in line and "refused" in line]
        wait_for(record, what="the audit record")
        show(record()[-1])
    say(f"Act 4 held, in {time.monotonic() - begun:.0f} s.")


def usage(cloud):
    """Requests in the gateway's own count."""
    return sum(float(line.split()[-1]) for line in cloud.metrics("metrics-gateway").splitlines() if line.startswith("seki_gateway_requests_total"))


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.SubprocessError) as e:
        sys.exit(f"Act 4 did not hold: {e}")
