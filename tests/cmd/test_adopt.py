"""seki adopt: servers that run already, put behind keys, limits and metering without touching them. And the page that leads here from other gateways, tried as it is printed."""
import contextlib
import json
import os
import re
import subprocess

import pytest

from cloud import FAKE_ENGINE, ROOT, SEKI, Cloud, wait_for
from wire import journal


@contextlib.contextmanager
def server(*args):
    """A fake server on a port of its own; its base URL."""
    p = subprocess.Popen([str(FAKE_ENGINE), "--listen", "127.0.0.1:0", *args], stdout=subprocess.PIPE, text=True)
    try:
        yield "http://" + p.stdout.readline().split()[-1] + "/v1"
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


@pytest.fixture(scope="module")
def cloud():
    with Cloud() as c:
        c.project("demo")
        yield c


def adopt(c, *args, check=True):
    return c.seki("-n", "demo", "adopt", *args, "--base-url", c.base_url, check=check)


def exported(text):
    return dict(re.findall(r"^export (\w+)=(\S+)", text, re.M))


def test_two_servers_of_one_model(cloud, tmp_path):
    key_file = tmp_path / "server.key"
    key_file.write_text("server-secret\n")
    with server("--model", "org/Model-1.5B", "--api-key", "server-secret", "--tokens", "3") as one, server("--model", "org/Model-1.5B", "--api-key", "server-secret", "--tokens", "3") as two:
        args = (one, two + "/", "--server-key-file", str(key_file), "--key", "app")
        said = adopt(cloud, *args)
        env = exported(said.stdout)
        assert env["OPENAI_BASE_URL"] == cloud.base_url and env["OPENAI_API_KEY"].startswith("sk-seki-") and "server-secret" not in said.stdout + said.stderr
        endpoint = cloud.get("modelendpoints", "demo", "org-model-1.5b")
        assert endpoint["spec"]["servedName"] == "org/Model-1.5B" and endpoint["spec"]["replicas"] == 2
        assert [s["url"] for s in endpoint["spec"]["servers"]] == [one, two]
        answer = cloud.seki("chat", "--model", "org/Model-1.5B", "hello", "-o", "json", env=env)
        assert json.loads(answer.stdout)["completionTokens"] == 3
        wait_for(lambda: any(r["key"] == "app" and r["completion_tokens"] == 3 for r in journal(cloud.data / "ledger")), what="the record")
        again = adopt(cloud, *args)  # what is there is left alone
        assert "is there" in again.stderr and "OPENAI_API_KEY" not in again.stdout


def test_what_servers_say_who_they_are(cloud):
    with server("--model", "plain") as url:
        adopt(cloud, url, "--key", "k1")
        assert cloud.get("modelendpoints", "demo", "plain")["spec"]["engine"] == {**cloud.get("modelendpoints", "demo", "plain")["spec"]["engine"], "driver": "openai", "url": url}
        other = adopt(cloud, url, "--driver", "vllm", check=False)
        assert other.returncode == 1 and "something else" in other.stderr


def test_refusals_say_what_to_do(cloud, tmp_path):
    with server("--model", "locked", "--api-key", "x") as url:
        p = adopt(cloud, url, check=False)
        assert p.returncode == 1 and "--server-key-file" in p.stderr
    p = adopt(cloud, "http://127.0.0.1:9", check=False)
    assert p.returncode == 1 and "127.0.0.1:9" in p.stderr
    with server("--model", "one") as url:
        p = adopt(cloud, url, "--model", "two", check=False)
        assert p.returncode == 1 and "no server has a model two" in p.stderr
        p = adopt(cloud, url + "/wrong", check=False)
        assert p.returncode == 1 and "base URL" in p.stderr
        p = cloud.seki("-n", "nowhere", "adopt", url, check=False)
        assert p.returncode == 1 and "no project nowhere" in p.stderr
    for args in (["ftp://x"], [], ["http://127.0.0.1:1", "--driver", "tgi"], ["http://127.0.0.1:1", "--timeout", "soon"]):
        assert cloud.seki("adopt", *args, check=False).returncode == 2


def test_a_server_that_may_not_be_reached(own_cloud):
    with server("--model", "inside") as url:
        c = own_cloud(options={"engine-remote-allow": None})
        c.project("demo")
        p = c.seki("-n", "demo", "adopt", url, "--timeout", "1s", check=False)
        assert p.returncode == 1 and "engine-remote-allow" in p.stderr
        p = c.seki("-n", "demo", "adopt", url, "--timeout", "1h", check=False)  # only the operator can mend that: nothing to wait for
        assert p.returncode == 1 and "modelendpoint inside does not serve: EngineInvalid: " in p.stderr


# ---- docs/use/migrate.md ----

def test_the_page_of_migration_as_it_is_printed(cloud, tmp_path):
    """Every command of it, in order; only the two servers, which are elsewhere here, and the gateway's URL are put in."""
    page = (ROOT / "docs" / "use" / "migrate.md").read_text()
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S))
    cloud.project("lab")
    with server("--model", "qwen", "--tokens", "3") as one, server("--model", "qwen-next", "--tokens", "3") as two:
        script = script.replace("http://10.0.0.5:8000/v1", one).replace("http://10.0.0.6:8000/v1", two)
        # The page shows two ways for the same server; here they meet, so the second has a name of its own.
        script = script.replace("seki -n lab usage", "true").replace("metadata: {name: qwen}", "metadata: {name: qwen-a}").replace("endpoint: qwen,", "endpoint: qwen-a,")
        env = {**os.environ, "KUBECONFIG": cloud.kubeconfig, "HOME": str(tmp_path), "SERVER_KEY": "x", "OPENAI_BASE_URL": cloud.base_url, "PATH": f"{SEKI.parent}:{os.environ['PATH']}"}
        p = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert p.returncode == 0, p.stdout + p.stderr
        listed, _ = json.JSONDecoder().raw_decode(p.stdout[p.stdout.index('{"object"'):])
        assert {"qwen", "qwen-a", "qwen-next", "small"} <= {m["id"] for m in listed["data"]}
        assert "tok0" in p.stdout
        wait_for(lambda: any(r["model"] == "small" and r["endpoint"] in ("qwen-a", "qwen-next") for r in journal(cloud.data / "ledger")), what="the record")
