"""A cluster's own issuer (spec.oidc), beside those of its tenant, with a real control plane. Needs the programs (make kubernetes)."""
import json
import os
import subprocess

import pytest

import kube
from cloud import KUBECTL, ApiError, wait_for
from issuer import several

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def issuers(tmp_path_factory):
    with several(tmp_path_factory.mktemp("issuers"), {"tenant": {}, "own": {}, "unlisted": {}}) as made:
        yield made


@pytest.fixture(scope="module")
def served(issuers, tmp_path_factory):
    folder = kube.programs(tmp_path_factory.mktemp("programs"))
    file = tmp_path_factory.mktemp("config") / "authentication.yaml"
    file.write_text(json.dumps({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": [{
        "issuer": {"url": issuers["tenant"].url, "audiences": ["seki"], "certificateAuthority": issuers["tenant"].ca.read_text()}, "tenant": "demo", "claimMappings": {"username": {"claim": "sub"}}}]}))
    with kube.cloud(folder, (), authentication_config=file, kubernetes_issuers=f"{issuers['own'].url}, {issuers['tenant'].url}") as c:
        c.tenant("demo")
        yield c


def oidc(issuer, prefix="corp:", url=None):
    return {"issuer": {"url": url or issuer.url, "audiences": ["shop"], "certificateAuthority": issuer.ca.read_text()},
            "claimMappings": {"username": {"claim": "sub", "prefix": prefix}, "groups": {"claim": "groups", "prefix": prefix}}}


def patch(cluster, spec):
    return cluster.cloud.api("PATCH", cluster.path, {"spec": spec}, "application/merge-patch+json")


def who(served, cluster, token):
    status = cluster.get()["status"]
    ca, file = served.dir / "one.ca.crt", served.dir / "nobody.kubeconfig"
    ca.write_text(status["certificateAuthority"])
    file.write_text("apiVersion: v1\nkind: Config\n")
    p = subprocess.run([KUBECTL, "--kubeconfig", str(file), "--server", status["endpoint"], "--certificate-authority", str(ca), "--token", token, "auth", "whoami", "-o",
                        "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "HOME": str(served.dir), "KUBECACHEDIR": str(served.dir / "kubecache-user")})
    return p.stdout or p.stderr


def test_what_nobody_listed_or_cannot_be_is_refused_and_nothing_is_made(served, issuers):
    for spec, field, said in [(oidc(issuers["unlisted"]), "spec.oidc.issuer.url", "operator has not listed it"), (oidc(issuers["own"], url=issuers["own"].url.replace("127.0.0.1", "127.0.0.2")), "spec.oidc.issuer.url", "has not listed it"),
                              (oidc(issuers["own"], "system:"), "spec.oidc.claimMappings.username.prefix", "the system's own"),
                              (oidc(issuers["own"], "kubeadm:"), "spec.oidc.claimMappings.username.prefix", "administrators"),
                              ({"issuer": {"url": issuers["own"].url}, "claimMappings": {"username": {"claim": "sub"}}}, "spec.oidc.issuer.audiences", "Required value")]:
        with pytest.raises(ApiError) as e:
            kube.Cluster(served, "demo", "bad", {"oidc": spec})
        causes = e.value.body["details"]["causes"]
        assert e.value.status == 422 and any(c["field"] == field and said in c["message"] for c in causes), causes
    assert not served.api("GET", "/apis/seki.cloud/v1alpha1/namespaces/demo/clusters")["items"]


def test_its_own_issuer_is_taken_beside_its_tenants_and_away_again(served, issuers):
    c = kube.Cluster(served, "demo", "one", {"oidc": oidc(issuers["own"])})
    c.wait(timeout=300)
    before = c.pids()
    own, tenants = issuers["own"].token("ann", aud="shop", groups=["dev"]), issuers["tenant"].token("ann")
    wait_for(lambda: who(served, c, own) == 'corp:ann ["corp:dev","system:authenticated"]', 90, "the cluster's own issuer to be known")
    wait_for(lambda: who(served, c, tenants).startswith("demo:ann"), 90, "the tenant's to be known beside it")
    c.wait("True", "Configured", kind="OIDCConfigured")
    assert [p["url"] for p in c.get()["status"]["people"]] == [issuers["tenant"].url, issuers["own"].url]
    for stranger in (issuers["own"].token("ann", aud="seki"), issuers["unlisted"].token("ann", aud="shop")):
        assert "corp:" not in who(served, c, stranger)
    # One that could be taken for somebody of the tenant is not taken; the tenant's are, all the while.
    patch(c, {"oidc": oidc(issuers["own"], "demo:")})
    c.wait("False", "IssuerTaken", kind="OIDCConfigured")
    wait_for(lambda: "ann" not in who(served, c, own), 120, "its tokens not to count")
    assert who(served, c, tenants).startswith("demo:ann")
    patch(c, {"oidc": None})
    c.wait("False", "NotWanted", kind="OIDCConfigured")
    assert [p["url"] for p in c.get()["status"]["people"]] == [issuers["tenant"].url]
    assert c.pids() == before
    c.delete()
