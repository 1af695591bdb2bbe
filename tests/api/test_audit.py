"""The audit ledger: what is recorded, when it is durable, and that no record can be changed, left out or lost."""
import base64
import json
import os
import shutil
import signal
import ssl
import subprocess
import unicodedata
import urllib.error
import urllib.request

import pytest

from cloud import GROUP, SEKI, ApiError, wait_for
import ledger_file
from ledger_file import crc32c
from ocsf import judge, validator, write_ledger


def records(cloud, tenant=None):
    args = ["audit", "export", str(cloud.data / "ledger"), "--format", "json", *(["--tenant", tenant] if tenant else [])]
    return [json.loads(line) for line in cloud.seki(*args).stdout.splitlines()]


def found(cloud, **want):
    """The records that have all these members, awaited: what was denied is written a moment after the answer."""
    def look():
        return [r for r in records(cloud) if all(r.get(k) == v for k, v in want.items())]
    return wait_for(look, what=f"a record {want}")


def now(cloud, **want):
    return [r for r in records(cloud) if all(r.get(k) == v for k, v in want.items())]


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def user_token(cloud, project, name="robot", role="edit"):
    """A service account of the project with a role there, and its token."""
    cloud.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    cloud.api("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{project}/rolebindings",
              {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
               "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": project}]})
    made = cloud.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts/{name}/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
    return made["status"]["token"]


def test_every_write_is_recorded_before_its_answer(cloud, project):
    path = f"/api/v1/namespaces/{project}/configmaps"
    made = cloud.api("POST", path, config_map("a", k="1"))
    (r,) = now(cloud, namespace=project, name="a", verb="create")
    assert r["type"] == "write" and r["resource"] == "configmaps" and r["tenant"] == project and r["object"] == made["metadata"]["uid"]
    assert str(r["rev"]) == made["metadata"]["resourceVersion"]
    assert r["user"] == "admin" and "system:masters" in r["groups"] and r["rule"] == "Group/system:masters"
    assert r["source"] == "127.0.0.1" and r["id"].startswith("req-")
    cloud.api("PUT", f"{path}/a", config_map("a", k="2"))
    cloud.api("PATCH", f"{path}/a", {"data": {"k": "3"}}, content_type="application/merge-patch+json")
    cloud.api("DELETE", f"{path}/a")
    assert [r["verb"] for r in now(cloud, namespace=project, name="a")] == ["create", "update", "patch", "delete"]
    for i in range(3):
        cloud.api("POST", path, config_map(f"m{i}"))
    cloud.api("DELETE", path)
    assert [r["name"] for r in now(cloud, namespace=project, verb="deletecollection")] == ["m0", "m1", "m2"]


def test_what_changes_nothing_is_no_write(cloud, project):
    path = f"/api/v1/namespaces/{project}/configmaps"
    cloud.api("POST", path + "?dryRun=All", config_map("dry"))
    cloud.api("POST", path, config_map("same", k="1"))
    cloud.api("PUT", f"{path}/same", config_map("same", k="1"))
    with pytest.raises(ApiError):
        cloud.api("POST", path, config_map("same"))
    assert not now(cloud, namespace=project, name="dry") and [r["verb"] for r in now(cloud, namespace=project, name="same")] == ["create"]


def test_secret_reads_are_recorded_and_say_no_content(cloud, project):
    secret = base64.b64encode(b"canary-of-the-audit").decode()
    path = f"/api/v1/namespaces/{project}/secrets"
    cloud.api("POST", path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": secret}})
    cloud.api("GET", f"{path}/s")
    cloud.api("GET", path)
    cloud.api("GET", f"{path}?watch=1&timeoutSeconds=1", raw=True)
    assert [(r["verb"], r.get("name", "")) for r in now(cloud, namespace=project, type="read")] == [("get", "s"), ("list", ""), ("watch", "")]
    text = b"".join(p.read_bytes() for p in (cloud.data / "ledger").glob("audit.*"))
    assert secret.encode() not in text and b"canary-of-the-audit" not in text
    cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps")
    assert not now(cloud, namespace=project, resource="configmaps", type="read")


def test_a_secret_that_a_write_shows_without_changing_it_was_read(cloud, project):
    """Who may write it could otherwise read it and leave no record: by a patch of nothing, an update with what is there, and every dry run."""
    path = f"/api/v1/namespaces/{project}/secrets"
    made = cloud.api("POST", path, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "canary"}})
    apply = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    cloud.api("PATCH", f"{path}/s?fieldManager=a", {**apply, "metadata": {"name": "s", "labels": {"a": "b"}}}, content_type="application/apply-patch+yaml")
    for verb, method, query, body, kind in (("patch", "PATCH", "", {}, "merge-patch+json"), ("patch", "PATCH", "", [{"op": "test", "path": "/data/k", "value": made["data"]["k"]}], "json-patch+json"),
                                            ("patch", "PATCH", "?dryRun=All", {"metadata": {"labels": {"x": "y"}}}, "strategic-merge-patch+json"),
                                            ("patch", "PATCH", "?fieldManager=a", {**apply, "metadata": {"name": "s", "labels": {"a": "b"}}}, "apply-patch+yaml"),
                                            ("update", "PUT", "", None, "json"), ("update", "PUT", "?dryRun=All", None, "json")):
        before = len(now(cloud, namespace=project, resource="secrets"))
        shown = cloud.api(method, f"{path}/s{query}", cloud.api("GET", f"{path}/s") if body is None else body, content_type=f"application/{kind}")
        assert shown["data"] == made["data"]
        later = now(cloud, namespace=project, resource="secrets")[before:]
        assert [(r["type"], r["verb"], r["name"]) for r in later if r["verb"] != "get"] == [("read", verb, "s")], (method, query, later)
    assert len(cloud.api("DELETE", f"{path}?dryRun=All")["items"]) == 1
    assert [r["type"] for r in now(cloud, namespace=project, resource="secrets", verb="deletecollection")] == ["read"]
    assert cloud.api("DELETE", f"{path}/s?dryRun=All")["kind"] == "Status"  # shows nothing
    assert not now(cloud, namespace=project, resource="secrets", verb="delete")
    # One that waits for its finalizer is shown by each deletion after the first.
    cloud.api("PATCH", f"{path}/s", {"metadata": {"finalizers": ["example.com/held"]}}, content_type="application/merge-patch+json")
    for _ in range(2):
        assert cloud.api("DELETE", f"{path}/s")["data"] == made["data"]
    assert [r["type"] for r in now(cloud, namespace=project, resource="secrets", verb="delete")] == ["write", "read"]
    cloud.api("PATCH", f"{path}/s", {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")


def test_denied_requests_tell_who_and_what(cloud, project):
    token = user_token(cloud, project)
    with pytest.raises(ApiError) as e:
        cloud.api("GET", "/api/v1/namespaces/kube-system/secrets/x", headers={"Authorization": f"Bearer {token}"}, context=anonymous(cloud))
    assert e.value.status == 404  # robot belongs to a tenant, and that is not its own
    (r,) = found(cloud, type="denied", namespace="kube-system", resource="secrets")
    assert r["user"] == f"system:serviceaccount:{project}:robot" and r["status"] == 404 and r["reason"] == "Forbidden" and r["verb"] == "get" and r["name"] == "x" and r["rule"] == "ForeignTenant"
    assert (r["actor_tenant"], r["tenant"]) == (project, "kube-system")  # whose user tried, and whose it is
    with pytest.raises(ApiError) as e:
        cloud.api("GET", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{project}/roles/x", headers={"Authorization": f"Bearer {token}"}, context=anonymous(cloud))
    assert e.value.status == 403
    (r,) = found(cloud, type="denied", namespace=project, resource="roles")
    assert r["status"] == 403 and r["reason"] == "Forbidden" and "rule" not in r and (r["actor_tenant"], r["tenant"]) == (project, project)
    with pytest.raises(ApiError) as e:
        cloud.api("GET", f"/api/v1/namespaces/{project}/secrets", headers={"Authorization": "Bearer nonsense"}, context=anonymous(cloud))
    assert e.value.status == 401
    (r, *_) = found(cloud, type="denied", status=401, name=f"/api/v1/namespaces/{project}/secrets")
    assert "user" not in r and r["source"] == "127.0.0.1" and "nonsense" not in json.dumps(r)


def anonymous(cloud):
    import ssl
    return ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))


def test_the_same_denied_many_times_is_one_record_with_a_count(cloud, project):
    for _ in range(40):
        with pytest.raises(ApiError):
            cloud.api("GET", f"/api/v1/namespaces/{project}/secrets/again", headers={"Authorization": "Bearer nonsense"}, context=anonymous(cloud))

    def all_counted():
        mine = now(cloud, type="denied", name=f"/api/v1/namespaces/{project}/secrets/again")
        return sum(r.get("count", 1) for r in mine) == 40 and mine
    assert len(wait_for(all_counted, what="40 denials")) < 40


def test_tokens_impersonation_and_grants(cloud, project):
    token = user_token(cloud, project, "writer")
    (issued,) = now(cloud, type="token", namespace=project, verb="create", name="writer")
    assert issued["subresource"] == "token" and issued["user"] == "admin"
    mine = {"Authorization": f"Bearer {token}"}
    for name in ("x", "y"):
        cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map(name), headers=mine, context=anonymous(cloud))
    (used,) = found(cloud, type="token", verb="use", user=f"system:serviceaccount:{project}:writer")
    assert used["object"] and token not in json.dumps(records(cloud))
    assert now(cloud, name="x", namespace=project)[0]["rule"] == f"RoleBinding/{project}/writer → ClusterRole/edit"
    (grant,) = now(cloud, resource="rolebindings", namespace=project, name="writer")
    assert grant["type"] == "write" and grant["user"] == "admin"
    cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps", headers={"Impersonate-User": "someone"} | {"Impersonate-Group": "system:masters"})
    (r,) = found(cloud, type="impersonation", user="someone", namespace=project)
    assert r["sender"] == "admin" and r["verb"] == "list"


def test_rows_of_a_list_fit_and_are_whole_where_that_is_asked(tmp_path):
    robot, rule = "system:serviceaccount:shop-production:robot-with-a-name-that-is-long", "ClusterRoleBinding/seki:control → ClusterRole/seki:control"
    bodies = [{"type": "write", "user": robot, "verb": "create", "resource": "modelendpoints", "namespace": "shop-production", "name": "llama-3-70b-instruct-of-the-whole-shop", "rev": 7, "rule": rule},
              {"type": "denied", "verb": "get", "name": "/" + "関" * 60, "status": 401, "count": 40}, {"type": "impersonation", "user": "admin", "verb": "deletecollection", "resource": "secrets", "status": 200},
              {"type": "write", "user": "admin", "verb": "create", "resource": "configmaps", "namespace": "shop", "name": "a", "rev": 8}]

    def listed(*args, n=len(bodies)):
        write_ledger(tmp_path / "ledger", bodies[:n])
        return subprocess.run([SEKI, "audit", "list", tmp_path / "ledger", *args], capture_output=True, text=True, check=True).stdout

    def width(line):
        return sum(2 if unicodedata.east_asian_width(c) == "W" else 1 for c in line)
    lines = listed().splitlines()
    assert lines[0].split() == ["SEQUENCE", "TIME", "TYPE", "USER", "VERB", "OBJECT", "RESULT"]
    # As much as there is room for, and no more. What is in a column begins in one.
    assert max(map(width, lines)) == 120 and len({width(line[:line.index(result)]) for line, result in zip(lines, ["RESULT", "rev 7", "401", "200", "rev 8"])}) == 1, lines
    assert [line.count("…") for line in lines] == [0, 2, 1, 0, 0] and "system:servic" in lines[1] and "long " in lines[1] and "configmaps shop/a " in lines[4], lines
    assert 1 < lines[2].split("…")[1].count("関") < lines[2].split("…")[0].count("関"), "the beginning says more"
    lines = listed("-o", "wide").splitlines()
    assert lines[0].split()[-2:] == ["TIMES", "RULE"] and lines[1].endswith(rule) and lines[2].split()[-2:] == ["40", "-"]
    assert robot in lines[1] and "modelendpoints shop-production/llama-3-70b-instruct-of-the-whole-shop " in lines[1] and "関" * 60 in lines[2]
    assert max(map(width, listed(n=0).splitlines())) < 120, "nothing is wider than it need be"
    rows = json.loads(listed("-o", "json"))
    assert [{k: v for k, v in r.items() if k not in ("sequence", "time")} for r in rows] == bodies and [r["sequence"] for r in rows] == [1, 2, 3, 4]
    assert json.loads(listed("-o", "json", "--after", "4")) == []


def test_each_tenant_has_its_own_view(cloud, project):
    other = cloud.project(f"{project}-other", tenant="globex")
    cloud.api("POST", f"/api/v1/namespaces/{other}/configmaps", config_map("theirs"))
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map("ours"))
    assert {r["namespace"] for r in records(cloud, "globex") if "namespace" in r} == {other, "globex"}  # its first project, too
    assert "ours" not in {r.get("name") for r in records(cloud, "globex")}
    assert "theirs" not in cloud.seki("audit", "list", str(cloud.data / "ledger"), "-o", "wide", "--tenant", project).stdout


def test_controllers_writes_are_recorded_and_heartbeats_are_not(cloud, project):
    cloud.fake_endpoint(project, "fake")
    assert now(cloud, namespace=project, resource="modelreplicas", verb="create", user="system:seki:control")
    assert not now(cloud, resource="leases") and not now(cloud, resource="events")


def test_export_as_ocsf(cloud, project):
    cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map("o"))
    events = [json.loads(line) for line in cloud.seki("audit", "export", str(cloud.data / "ledger"), "--tenant", project).stdout.splitlines()]
    (e,) = [e for e in events if e.get("resources", [{}])[0].get("name") == "o"]
    for name in ("activity_id", "category_uid", "class_uid", "severity_id", "time", "type_uid", "metadata", "actor", "api", "src_endpoint"):
        assert name in e, name
    assert (e["class_uid"], e["category_uid"], e["activity_id"], e["type_uid"]) == (6003, 6, 1, 600301)
    assert e["actor"]["user"]["name"] == "admin" and e["api"]["operation"] == "create" and e["metadata"]["product"]["name"] == "Seki" and e["metadata"]["tenant_uid"] == project
    sequences = [e["metadata"]["sequence"] for e in events]
    assert sequences == sorted(sequences)
    later = cloud.seki("audit", "export", str(cloud.data / "ledger"), "--tenant", project, "--after", str(sequences[-2])).stdout.splitlines()
    assert [json.loads(line)["metadata"]["sequence"] for line in later] == sequences[-1:]


def test_every_exported_event_is_valid_by_the_schema_of_ocsf(cloud, project):
    """By OCSF's own schema of the version that events say they are of, not by ours: whatever this cloud has recorded by now."""
    cloud.api("POST", f"/api/v1/namespaces/{project}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": "b"}})
    cloud.api("GET", f"/api/v1/namespaces/{project}/secrets/s")
    token = cloud.api("POST", f"/api/v1/namespaces/{project}/serviceaccounts/default/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})["status"]["token"]
    for headers in ({"Authorization": f"Bearer {token}"}, {"Authorization": "Bearer nobody"}, {"Impersonate-User": "ann", "Impersonate-Group": "staff"}):
        for _ in range(3):
            with pytest.raises(ApiError):
                cloud.api("GET", f"/api/v1/namespaces/{project}/secrets/s", headers=headers, context=ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt")) if "Authorization" in headers else None)
    cloud.api("GET", f"/api/v1/namespaces/{project}/configmaps", headers={"Impersonate-User": "ann", "Impersonate-Group": "system:masters"})
    assert cloud.gateway_status("/models", "sk-seki-none") == 401
    wanted = {"write", "read", "token", "impersonation", "denied", "refused"}

    def exported():
        events = [json.loads(line) for line in cloud.seki("audit", "export", str(cloud.data / "ledger")).stdout.splitlines()]
        seen = {e["unmapped"]["type"] for e in events}
        return events if wanted <= seen else None
    events = wait_for(exported, what="all types of events")
    for wrong in ({**events[0], "activity_id": "one"}, {k: v for k, v in events[0].items() if k != "api"}, {**events[0], "made_up": 1}):
        assert any(validator().iter_errors(wrong))  # it does judge
    assert wanted <= judge(events)


def test_records_of_every_type_are_valid_events_however_little_is_in_them(cloud, tmp_path):
    """Those that no cloud in this test makes, too; what an upgrade that was rolled back and a restore leave is judged where they are tried (test_stored.py, test_backup.py)."""
    types = ("write", "read", "token", "impersonation", "denied", "refused", "undone", "restored", "break_glass", "of-a-later-release")
    full = {"id": "req-1", "user": "o", "uid": "u", "groups": ["g"], "sender": "s", "source": "::1", "agent": "a", "verb": "patch", "group": "g", "resource": "r", "subresource": "s", "namespace": "n", "name": "x",
            "object": "o", "tenant": "t", "actor_tenant": "t2", "rule": "r", "status": 200, "reason": "Forbidden", "rev": 4, "last_rev": 5, "count": 3, "until": "2026-01-01T00:00:00Z"}
    write_ledger(tmp_path / "ledger", [{"type": t, **rest} for t in types for rest in ({}, {"rev": 2, "last_rev": 3}, full, {**full, "source": "not an address", "verb": "explode", "status": 999999})])
    assert "40 records" in cloud.seki("audit", "verify", str(tmp_path / "ledger")).stdout
    events = [json.loads(line) for line in cloud.seki("audit", "export", str(tmp_path / "ledger")).stdout.splitlines()]
    assert len(events) == 40 and judge(events) == {*types[:-1], "other"}


def test_verify_names_the_first_bad_record(cloud, project, tmp_path):
    for i in range(5):
        cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map(f"v{i}"))
    assert "each follows on the one before" in cloud.seki("audit", "verify", str(cloud.data / "ledger")).stdout
    copy = tmp_path / "copy"
    shutil.copytree(cloud.data / "ledger", copy)
    file = copy / "audit.000001"
    text = bytearray(file.read_bytes())
    at = text.index(f'"namespace":"{project}","name":"v2"'.encode())
    text[at + 20] ^= 1
    file.write_bytes(bytes(text))
    (bad,) = [r["sequence"] for r in now(cloud, namespace=project, name="v2")]
    p = cloud.seki("audit", "verify", str(copy), check=False)
    assert p.returncode == 1 and f"after sequence {bad - 1}:" in p.stderr and "audit.000001" in p.stderr, p.stderr
    # A record cut out of the middle, checksums intact: the chain tells.
    shutil.copy(cloud.data / "ledger" / "audit.000001", file)
    whole = file.read_bytes()
    at, sizes = 32, []
    while at < len(whole):
        size = 60 + int.from_bytes(whole[at:at + 4], "little")
        sizes.append((at, size))
        at += size
    cut_at, size = sizes[len(sizes) // 2]
    file.write_bytes(whole[:cut_at] + whole[cut_at + size:])
    assert cloud.seki("audit", "verify", str(copy), check=False).returncode == 1
    # Another body with a checksum made anew, as somebody would who knows the format: the hash in the record behind it tells.
    changed = bytearray(whole)
    changed[cut_at + size - 3] ^= 1
    changed[cut_at + 4:cut_at + 8] = crc32c(changed[cut_at + 8:cut_at + size]).to_bytes(4, "little")
    file.write_bytes(bytes(changed))
    p = cloud.seki("audit", "verify", str(copy), check=False)
    assert p.returncode == 1 and f"sequence {len(sizes) // 2 + 2}: the chain is broken" in p.stderr, p.stderr
    p = cloud.seki("audit", "verify", str(tmp_path), check=False)
    assert p.returncode == 1 and "no audit ledger" in p.stderr


def test_what_was_written_anew_from_a_record_on_is_told_by_the_one_that_was_noted(cloud, project, tmp_path):
    """Whoever can write the files can make a chain that holds. What he cannot change is what was noted elsewhere."""
    for i in range(3):
        cloud.api("POST", f"/api/v1/namespaces/{project}/configmaps", config_map(f"noted{i}"))
    copy = tmp_path / "copy"
    shutil.copytree(cloud.data / "ledger", copy)
    noted = json.loads(cloud.seki("audit", "verify", str(copy), "-o", "json").stdout)["record"]
    assert f"  seki audit verify --record {noted} {copy}\n" in cloud.seki("audit", "verify", str(copy)).stdout  # to be pasted
    assert cloud.seki("audit", "verify", str(copy), "--record", noted).returncode == 0
    file = copy / "audit.000001"
    whole = file.read_bytes()
    entries = ledger_file.records(whole)
    assert noted.split(":")[0] == str(len(entries))
    forged = [(v, t, body.replace(b"noted1", b"other1")) for v, t, body in entries]
    for kept in (forged, entries[:-1], [*entries[:-1], entries[-2]]):
        file.write_bytes(ledger_file.chained(whole[:ledger_file.FILE_HEAD], kept))
        assert cloud.seki("audit", "verify", str(copy)).returncode == 0
        p = cloud.seki("audit", "verify", str(copy), "--record", noted, check=False)
        assert p.returncode == 1 and f"record {noted.split(':')[0]}" in p.stderr, p.stderr


def test_no_change_without_its_record_through_kills(own_cloud):
    """Writers run while control is killed again and again: each revision of the store that a client made has exactly one record that stands."""
    cloud = own_cloud()
    cloud.project("kills")
    acknowledged = {}
    for round_ in range(6):
        writer = subprocess.Popen([str(SEKI), "version"], stdout=subprocess.DEVNULL)  # something that ends by itself, so that rounds differ in time
        for i in range(12):
            try:
                made = cloud.api("POST", "/api/v1/namespaces/kills/configmaps", config_map(f"k{round_}-{i}"))
                acknowledged[made["metadata"]["name"]] = int(made["metadata"]["resourceVersion"])
            except (ApiError, OSError):
                pass
            if i == 3 + round_:
                cloud.kill_role("control")
        writer.wait()
        wait_for(lambda: cloud.is_ready("metrics"), what="control to be back")
    standing = {}
    for r in records(cloud):
        if r["type"] == "undone":
            standing = {rev: v for rev, v in standing.items() if not r["rev"] <= rev <= r["last_rev"]}
        elif r["type"] == "write":
            assert r["rev"] not in standing, f"revision {r['rev']} is recorded twice"
            standing[r["rev"]] = r
    stored = {o["metadata"]["name"]: int(o["metadata"]["resourceVersion"]) for o in cloud.api("GET", "/api/v1/namespaces/kills/configmaps")["items"]}
    assert acknowledged.items() <= stored.items()
    recorded = {r["name"]: rev for rev, r in standing.items() if r.get("namespace") == "kills" and r["resource"] == "configmaps" and r["name"] in stored}
    assert recorded == stored
    assert cloud.seki("audit", "verify", str(cloud.data / "ledger")).returncode == 0


def test_a_damaged_ledger_is_named_at_start_and_left_alone(own_cloud):
    cloud = own_cloud()
    cloud.project("d")
    cloud.stop(signal.SIGTERM)
    file = cloud.data / "ledger" / "audit.000001"
    text = bytearray(file.read_bytes())
    text[100] ^= 1
    file.write_bytes(bytes(text))
    cloud.start(wait=False)
    wait_for(lambda: "audit.000001" in cloud.tail(20000) and "control cannot start" in cloud.tail(20000), what="the reason")
    assert file.read_bytes() == bytes(text)
    os.kill(cloud.process.pid, signal.SIGTERM)
    cloud.process.wait(60)


def chat(cloud, key, model):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{cloud.base_url}/chat/completions", body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(request, timeout=30)
    assert e.value.code == 404


def test_the_gateways_refusals_are_recorded(own_cloud):
    cloud = own_cloud()
    cloud.project("shop")
    key = cloud.key("shop", "till")
    assert cloud.gateway_status("/models", "sk-seki-nonsense") == 401
    assert cloud.gateway_status("/models/theirs", key) == 404
    chat(cloud, key, "somebody-s-secret")
    cloud.api("PATCH", f"{GROUP}/namespaces/shop/apikeys/till", {"spec": {"disabled": True}}, content_type="application/merge-patch+json")
    wait_for(lambda: cloud.gateway_status("/models", key) == 401, what="the key to be off")
    (r, *_) = found(cloud, type="refused", rule="KeyUnknown")
    assert r["status"] == 401 and r["source"] == "127.0.0.1" and r["name"] == "/v1/models" and "user" not in r and r["origin"].startswith("audit-gateway/")
    (r, *_) = found(cloud, type="refused", rule="KeyDisabled")
    assert (r["user"], r["namespace"], r["tenant"]) == ("till", "shop", "shop")
    wait_for(lambda: {r["name"] for r in now(cloud, type="refused", rule="ModelNotVisible")} == {"/v1/models/theirs", "/v1/chat/completions"}, what="both")
    assert {(r["user"], r["tenant"], r["status"]) for r in now(cloud, type="refused", rule="ModelNotVisible")} == {("till", "shop", 404)}
    text = b"".join(p.read_bytes() for p in (cloud.data / "ledger").glob("audit*"))
    assert b"nonsense" not in text and b"somebody-s-secret" not in text and key.encode() not in text
    before = len(now(cloud, type="refused"))
    cloud.stop(signal.SIGTERM)
    cloud.start()
    assert cloud.gateway_status("/models", "sk-seki-more") == 401
    wait_for(lambda: len(now(cloud, type="refused")) > before, what="the next one")
    origins = [r["origin"] for r in now(cloud, type="refused")]
    assert len(origins) == len(set(origins))
