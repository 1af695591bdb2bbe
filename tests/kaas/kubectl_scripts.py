#!/usr/bin/env python3
"""kubectl's own test scripts (test/cmd of k8s.io/kubernetes) against a Cluster's API, one after the other, each with a minute or two of its own.

usage: kubectl_scripts.py [--minutes N] [--match REGEX]
       kubectl_scripts.py table            prints the table of docs/operate/kubectl-scripts.md
The scripts are taken from the Go module that the programs are built from, and adapted in a temporary copy: the address and the token of the server, no more. They expect no node but one that
nobody runs, as upstream. What has answered stays, in build/conformance/kubectl.jsonl, and another run goes on with the rest and with what failed.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import kube  # noqa: E402
from cloud import ROOT  # noqa: E402
from conformance import past  # noqa: E402

OUT = ROOT / "build" / "conformance"
RESULTS = OUT / "kubectl.jsonl"
EACH_S = 240
# Never run, and why.
BARE = "expects an API server whose admission gives pods no service account"
NOT_RUNNABLE = {"run_save_config_tests": f"{BARE}, and compares letter for letter", "run_recursive_resources_tests": f"{BARE}: replaces a pod by one without it, which every conformant server forbids",
                "run_multi_resources_tests": "applies an address in the Internet"}
# Upstream's server allows everybody everything; so does this, for those whom scripts name.
EVERYBODY = ["system:authenticated", "system:unauthenticated", "the-group"]
# Sources upstream's functions, and calls one of them as record_command does. What runTests defines first (flags, names of fields) comes from its run with WHAT, whose record_command is ours.
DRIVER = r"""
cd "$1"; shift
export KUBE_ROOT=$PWD TMPDIR HOME FUNCTION=$1
source hack/lib/init.sh; source hack/lib/test.sh; source test/cmd/legacy-script.sh
trap - EXIT
kube::util::ensure-temp-dir; kube::util::ensure-gnu-sed
kube::test::clear_all() { :; }
kube::util::test_client_certificate_authentication_enabled() { :; }  # looks for the name of an authority of upstream's
record_command() { set -o errexit -o nounset; "$FUNCTION"; }
trap 'stop-proxy' EXIT
CONTEXT=test SUPPORTED_RESOURCES=("*") WHAT=one
runTests
echo "SEKI: whole"
"""
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "127.0.0.1", "annotations": {"save-managers": "true"}}, "status": {"capacity": {"memory": "1Gi"}}}


def functions():
    """In the order in which upstream calls them."""
    found = re.findall(r"^ +record_command (run_\w+)", (kube.module() / "test" / "cmd" / "legacy-script.sh").read_text(), re.M)
    return list(dict.fromkeys(found))


def copy(where, address, token):
    root, there = where / "tree", kube.module()
    for part in ("hack", "test/cmd", "test/fixtures", "third_party/forked/shell2junit", "test/e2e/testing-manifests", "cluster"):
        if (there / part).exists():
            shutil.copytree(there / part, root / part)
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    for script in [*(root / "test" / "cmd").glob("*.sh"), root / "hack" / "lib" / "test.sh"]:
        text = script.read_text()
        script.write_text(re.sub(r"(127\.0\.0\.1|localhost):\$\{SECURE_API_PORT\}", address, text).replace("admin-token", token))
    for p in (root / "test" / "fixtures" / "pkg" / "kubectl" / "plugins").rglob("*"):
        if p.is_file() and p.read_bytes()[:2] == b"#!":
            p.chmod(0o755)  # a Go module carries no permissions
    programs = root / "_output" / "bin"
    programs.mkdir(parents=True)
    for p in ("kubectl", "kubectl-convert"):
        if (kube.BUILT / kube.MINOR / p).exists():
            (programs / p).symlink_to((kube.BUILT / kube.MINOR / p).resolve())
    return root


def ask(cluster, function, root, work):
    """One function in a shell of its own. Returns its result and its last words."""
    began = time.time()
    env = {"PATH": f"{root}/_output/bin:{os.environ['PATH']}", "HOME": str(work / "home"), "TMPDIR": str(work / "tmp"), "KUBE_TEMP": "", "LANG": "C", "TERM": "xterm", "KUBE_JUNIT_REPORT_DIR": str(work / "tmp")}
    log = OUT / "kubectl-logs" / f"{function}.log"
    log.parent.mkdir(exist_ok=True)
    with open(log, "wb") as out:
        p = subprocess.run(["timeout", "-k", "5", str(EACH_S), "bash", "-c", DRIVER, "driver", root, function], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)
    said = re.sub(r"\x1b(\[[0-9;]*m|\(B)", "", log.read_text(errors="replace")).strip().splitlines()
    whole = p.returncode == 0 and said and said[-1] == "SEKI: whole"
    return {"test": function, "result": "passed" if whole else "failed", "seconds": round(time.time() - began, 1), "said": "" if whole else f"not done within {EACH_S} s" if p.returncode == 124 else " / ".join(said[-3:])[:600]}


def prepare(cluster, work):
    """Who asks: an administrator with a token, as upstream's scripts do."""
    cluster.kubectl("create", "serviceaccount", "scripts", "-n", "kube-system")
    cluster.kubectl("create", "clusterrolebinding", "scripts", "--clusterrole=cluster-admin", "--serviceaccount=kube-system:scripts", *(f"--group={g}" for g in EVERYBODY))
    token = cluster.kubectl("create", "token", "scripts", "-n", "kube-system", "--duration=8h").stdout.strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "-o", "json").stdout)
    address = config["clusters"][0]["cluster"]["server"].removeprefix("https://")
    (work / "home" / ".kube").mkdir(parents=True)
    (work / "tmp").mkdir()
    (work / "tmp" / "apiserver.crt").write_text(ssl.get_server_certificate(tuple(address.split(":"))))
    (work / "tmp" / "apiserver.key").write_text(subprocess.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], capture_output=True, text=True, check=True).stdout)
    ours = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "clusters": [{"name": "local", "cluster": {"server": f"https://{address}", "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test-admin", "user": {"token": token}}], "contexts": [{"name": "test", "context": {"cluster": "local", "user": "test-admin"}}]}
    (work / "home" / ".kube" / "config").write_text(json.dumps(ours))
    cluster.kubectl("create", "-f", "-", input=json.dumps(NODE))
    cluster.kubectl("wait", "--for=condition=Ready=Unknown", "--timeout=110s", "node/127.0.0.1")  # what a node is that has never been heard of
    return address, token


def run(minutes, match):
    OUT.mkdir(parents=True, exist_ok=True)
    until = time.time() + minutes * 60
    with tempfile.TemporaryDirectory(dir="/tmp") as work:
        work = pathlib.Path(work)
        with kube.cloud(kube.programs(work), kubernetes_drill_interval="0") as cloud:
            cluster = kube.Cluster(cloud, "demo", "scripts", {"controlPlane": {"size": "Medium"}, "backup": {"intervalSeconds": 0}, "network": {"serviceCIDR": "10.0.0.0/24"}})
            try:
                cluster.wait(timeout=300)
                root = copy(work, *prepare(cluster, work))
                done = past(RESULTS)
                for f in functions():
                    if f in NOT_RUNNABLE or not re.search(match, f) or any(r["result"] == "passed" for r in done.get(f, ())) or time.time() > until:
                        continue
                    r = ask(cluster, f, root, work)
                    with open(RESULTS, "a") as out:
                        out.write(json.dumps(r) + "\n")
                    print(f"{r['result']:7} {r['seconds']:6.1f} s  {f}  {r['said'][:200]}", flush=True)
            finally:
                cluster.delete()


def table():
    done = past(RESULTS)
    counts = collections.Counter()
    rows = []
    for f in functions():
        runs = done.get(f, [])
        result = "not runnable" if f in NOT_RUNNABLE else "passed" if any(r["result"] == "passed" for r in runs) else runs[-1]["result"] if runs else "not run"
        counts[result] += 1
        if result != "passed":
            rows.append((f, result, NOT_RUNNABLE.get(f) or (runs[-1]["said"] if runs else "")))
    print(f"{sum(counts.values())} scripts: " + ", ".join(f"{n} {r}" for r, n in counts.most_common()))
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", nargs="?", choices=["run", "table"], default="run")
    p.add_argument("--minutes", type=float, default=25)
    p.add_argument("--match", default="")
    o = p.parse_args()
    table() if o.what == "table" else run(o.minutes, o.match)
