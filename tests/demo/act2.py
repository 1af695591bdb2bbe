"""Act 2: two tenants who cannot see each other, one of them suspended; an operator who cannot read a secret; an audit log that verifies, and one with a flipped byte that does not."""
import base64
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import pathlib

from cloud import GROUP, KUBECTL, ApiError, Cloud, wait_for

RBAC = "/apis/rbac.authorization.k8s.io/v1"


def say(text):
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(text):
    print("    " + text.strip().replace("\n", "\n    "), flush=True)


def kubectl(kubeconfig, *args):
    p = subprocess.run([KUBECTL, "--kubeconfig", str(kubeconfig), *args], capture_output=True, text=True, timeout=60)
    show(f"$ kubectl --kubeconfig {kubeconfig.name} {' '.join(args)}\n{p.stdout}{p.stderr}")
    return p


def main():
    begun = time.monotonic()
    say("Act 2. Two tenants, who pay for themselves and see nothing of each other.")
    with Cloud(options={"log-level": "info"}) as cloud, tempfile.TemporaryDirectory() as d:
        files = {}
        for name, company in (("acme", "Acme K.K."), ("globex", "Globex GmbH")):
            files[name] = pathlib.Path(d) / f"{name}.kubeconfig"
            show(cloud.seki("tenant", "create", name, "--display-name", company, "--kubeconfig-out", str(files[name])).stdout.splitlines()[0])
            cloud.real_endpoint(name, "gemma", parallel=1)  # the release build has no fake engine
        keys = {name: cloud.key(name) for name in files}
        made = kubectl(files["acme"], "create", "secret", "generic", "bank", "--from-literal=pin=canary-of-acme")
        assert made.returncode == 0
        seen = kubectl(files["globex"], "-n", "acme", "get", "secret", "bank")
        assert seen.returncode != 0 and 'namespaces "acme" not found' in seen.stderr

        say("Acme has not paid: it is suspended.")
        show(cloud.seki("tenant", "suspend", "acme").stdout)
        wait_for(lambda: cloud.gateway_status("/models", keys["acme"]) == 403, what="the gateway to refuse")
        assert cloud.gateway_status("/models", keys["globex"]) == 200
        show("its key: 403; Globex' key: 200")
        refused = kubectl(files["acme"], "get", "modelendpoints")
        assert "TenantSuspended" in refused.stderr
        show(cloud.seki("tenant", "list").stdout)
        cloud.seki("tenant", "resume", "acme")
        wait_for(lambda: cloud.gateway_status("/models", keys["acme"]) == 200, what="the gateway to serve again")

        say("An operator runs the cloud, and cannot read a secret in it.")
        cloud.project("ops")
        cloud.api("POST", "/api/v1/namespaces/ops/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "night-shift"}})
        cloud.api("POST", f"{RBAC}/clusterrolebindings", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "night-shift"},
                  "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "operator"}, "subjects": [{"kind": "ServiceAccount", "name": "night-shift", "namespace": "ops"}]})
        token = cloud.api("POST", "/api/v1/namespaces/ops/serviceaccounts/night-shift/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
        operator = {"headers": {"Authorization": f"Bearer {token}"}, "context": ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))}
        states = {e["metadata"]["namespace"]: e["status"]["readyReplicas"] for e in cloud.api("GET", f"{GROUP}/modelendpoints", **operator)["items"]}
        assert states == {"acme": 1, "globex": 1}
        show(f"ready replicas, as the operator sees them: {states}")
        for path in ("/api/v1/namespaces/acme/secrets/bank", "/api/v1/secrets", "/api/v1/namespaces/acme/configmaps", f"{GROUP}/namespaces/acme/apikeys"):
            try:
                cloud.api("GET", path, **operator)
                raise AssertionError(f"the operator read {path}")
            except ApiError as e:
                assert e.status == 403
        show('secrets "bank" is forbidden: User "system:serviceaccount:ops:night-shift" cannot get resource "secrets"')

        say("All of this is in the audit ledger, and none of what was in it.")
        ledger = cloud.data / "ledger"
        wait_for(lambda: "denied" in cloud.seki("audit", "list", str(ledger), "--tenant", "acme").stdout, what="the denials")
        show("\n".join(cloud.seki("audit", "list", str(ledger), "--tenant", "acme").stdout.splitlines()[-6:]))
        text = b"".join(f.read_bytes() for f in ledger.glob("audit.*"))
        assert b"canary-of-acme" not in text and base64.b64encode(b"canary-of-acme") not in text
        show(cloud.seki("audit", "verify", str(ledger)).stdout)
        copy = pathlib.Path(d) / "ledger"
        shutil.copytree(ledger, copy)
        changed = bytearray((copy / "audit.000001").read_bytes())
        changed[len(changed) // 2] ^= 1
        (copy / "audit.000001").write_bytes(bytes(changed))
        p = cloud.seki("audit", "verify", str(copy), check=False)
        assert p.returncode == 1 and "does not verify" in p.stderr
        show("one bit changed: " + p.stderr.replace(str(copy), "COPY"))
    say(f"Act 2 held, in {time.monotonic() - begun:.0f} s.")


main()
