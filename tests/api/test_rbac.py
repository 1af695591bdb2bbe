"""RBAC as Kubernetes has it: who may grant what, as whom one may act, roles that gather others, the default roles."""
import hashlib
import json
import re
import socket
import ssl

import pytest

from cloud import ApiError, Cloud

RBAC = "/apis/rbac.authorization.k8s.io/v1"
API = "rbac.authorization.k8s.io"
PLURALS = {"Role": "roles", "ClusterRole": "clusterroles", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings"}
GET_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
GET_MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
USERS = ["alice", "bob", "carol", "dave", "erin", "frank"]


class People(Cloud):
    """A Cloud that knows people by tokens: each is in the group GROUP-of-NAME."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        tokens = self.dir / "tokens"
        tokens.write_text("".join(f"{hashlib.sha256(token(u).encode()).hexdigest()} {u} team-of-{u}\n" for u in USERS) +
                          f"{hashlib.sha256(b'token-root').hexdigest()} root system:masters\n")
        tokens.chmod(0o600)
        self.options["api-token-file"] = tokens

    def as_user(self, user, method, path, body=None, headers=None, **kwargs):
        context = ssl.create_default_context(cafile=str(self.data / "pki" / "ca.crt"))
        return self.api(method, path, body, headers={"Authorization": f"Bearer {token(user)}", **(headers or {})}, context=context, **kwargs)

    def code(self, user, method, path, body=None, **kwargs):
        """Status and message of what a user asks for."""
        try:
            self.as_user(user, method, path, body, **kwargs)
        except ApiError as e:
            return e.status, e.body["message"]
        return 200, ""

    def kubectl_as(self, user, *args, **kwargs):
        return self.kubectl("--token", token(user), "--kubeconfig", str(self.plain_kubeconfig()), *args, **kwargs)

    def plain_kubeconfig(self):
        """One without the admin's certificate, which would come before a token."""
        path = self.dir / "plain.kubeconfig"
        if not path.exists():
            config = json.loads(self.kubectl("config", "view", "--raw", "-o", "json").stdout)
            config["users"] = [{"name": u["name"], "user": {}} for u in config["users"]]
            path.write_text(json.dumps(config))
        return path


def token(user):
    return f"token-{user}"


@pytest.fixture(scope="module")
def cloud():
    with People() as c:
        yield c


_count = iter(range(1, 1 << 30))


@pytest.fixture
def project(cloud):
    return cloud.project(f"rbac{next(_count)}")


def url(kind, ns=None, name=None):
    return f"{RBAC}{f'/namespaces/{ns}' if ns else ''}/{PLURALS[kind]}{f'/{name}' if name else ''}"


def thing(kind, name, ns=None, labels=None, annotations=None, **members):
    meta = {"name": name, **({"namespace": ns} if ns else {}), **({"labels": labels} if labels else {}), **({"annotations": annotations} if annotations else {})}
    return {"apiVersion": f"{API}/v1", "kind": kind, "metadata": meta, **members}


def binding(kind, name, role_kind, role_name, *users, ns=None):
    return thing(kind, name, ns, subjects=[{"kind": "User", "apiGroup": API, "name": u} for u in users], roleRef={"apiGroup": API, "kind": role_kind, "name": role_name})


def grant(cloud, ns, user, *rules):
    """Rules for a user in a project, or everywhere, by the administrator."""
    name = f"{user}-{next(_count)}"
    role, bind = ("Role", "RoleBinding") if ns else ("ClusterRole", "ClusterRoleBinding")
    cloud.api("POST", url(role, ns), thing(role, name, ns, rules=list(rules)))
    cloud.api("POST", url(bind, ns), binding(bind, name, role, name, user, ns=ns))
    return name


def rule(verbs, resources, groups=API, names=None):
    return {"apiGroups": [groups], "resources": resources.split(), "verbs": verbs.split(), **({"resourceNames": names} if names else {})}


WRITE_ROLES = rule("get list watch create update patch delete", "roles rolebindings clusterroles clusterrolebindings")


# ---- escalation ----

def missing(user, kind, name, rules):
    return (f'{PLURALS[kind]}.{API} "{name}" is forbidden: user "{user}" (groups=["team-of-{user}" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:\n{rules}')


SECRETS_TEXT = '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}'


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
def test_nobody_writes_a_role_with_rules_that_he_does_not_hold(cloud, project, kind):
    ns = project if kind == "Role" else None
    user = {"Role": "alice", "ClusterRole": "bob"}[kind]
    grant(cloud, ns, user, WRITE_ROLES, GET_MAPS)
    name, path = f"r-{project}", url(kind, ns, f"r-{project}")
    refused = (403, missing(user, kind, name, SECRETS_TEXT))
    small, big = thing(kind, name, ns, rules=[GET_MAPS]), thing(kind, name, ns, rules=[GET_MAPS, GET_SECRETS])
    apply = {"content_type": "application/apply-patch+yaml"}

    assert cloud.code(user, "POST", url(kind, ns), big) == refused
    assert cloud.code(user, "POST", url(kind, ns) + "?dryRun=All", big) == refused
    assert cloud.code(user, "PATCH", path + "?fieldManager=t", big, **apply) == refused
    assert cloud.code(user, "POST", url(kind, ns), small)[0] == 200
    assert cloud.code(user, "PUT", path, big) == refused
    assert cloud.code(user, "PATCH", path, {"rules": [GET_SECRETS]}, content_type="application/merge-patch+json") == refused
    assert cloud.code(user, "PATCH", path, {"rules": [GET_SECRETS]}, content_type="application/strategic-merge-patch+json") == refused
    assert cloud.code(user, "PATCH", path, [{"op": "add", "path": "/rules/-", "value": GET_SECRETS}], content_type="application/json-patch+json") == refused
    assert cloud.code(user, "PATCH", path + "?fieldManager=t&force=true", big, **apply) == refused
    assert cloud.api("GET", path)["rules"] == [GET_MAPS]
    # What he holds he may give; a role that holds more is not his to touch, but its finalizers and owners are no grant.
    assert cloud.code(user, "PATCH", path, {"metadata": {"labels": {"a": "b"}}}, content_type="application/merge-patch+json")[0] == 200
    cloud.api("PUT", path, big)
    assert cloud.code(user, "PATCH", path, {"metadata": {"labels": {"a": "c"}}}, content_type="application/merge-patch+json") == refused
    assert cloud.code(user, "PATCH", path, {"metadata": {"finalizers": ["x/y"]}}, content_type="application/merge-patch+json")[0] == 200
    assert cloud.code(user, "PATCH", path, {"metadata": {"finalizers": None}}, content_type="application/merge-patch+json")[0] == 200
    # The verb that lifts it, on this one.
    grant(cloud, ns, user, rule("escalate", PLURALS[kind], names=[name]))
    assert cloud.code(user, "PUT", path, big)[0] == 200
    assert cloud.code(user, "PATCH", path, {"metadata": {"labels": {"a": "d"}}}, content_type="application/merge-patch+json")[0] == 200
    assert cloud.code(user, "POST", url(kind, ns), {**big, "metadata": {"name": name + "2"}})[0] == 403
    assert cloud.code(user, "DELETE", path)[0] == 200


@pytest.mark.parametrize("kind,role", [("RoleBinding", "Role"), ("RoleBinding", "ClusterRole"), ("ClusterRoleBinding", "ClusterRole")])
def test_nobody_binds_a_role_whose_rules_he_does_not_hold(cloud, project, kind, role):
    ns = project if kind == "RoleBinding" else None
    user = {"RoleRoleBinding": "carol", "ClusterRoleRoleBinding": "carol", "ClusterRoleClusterRoleBinding": "dave"}[role + kind]
    role_ns, big, small = (project if role == "Role" else None), f"big-{project}", f"small-{project}"
    cloud.api("POST", url(role, role_ns), thing(role, big, role_ns, rules=[GET_SECRETS]))
    cloud.api("POST", url(role, role_ns), thing(role, small, role_ns, rules=[GET_MAPS]))
    grant(cloud, ns, user, WRITE_ROLES, GET_MAPS)
    name = f"b-{project}"
    path, refused = url(kind, ns, name), (403, missing(user, kind, name, SECRETS_TEXT))
    wide, narrow = binding(kind, name, role, big, user, ns=ns), binding(kind, name, role, small, "erin", ns=ns)

    assert cloud.code(user, "POST", url(kind, ns), wide) == refused
    assert cloud.code(user, "PATCH", path + "?fieldManager=t", wide, content_type="application/apply-patch+yaml") == refused
    assert cloud.code(user, "POST", url(kind, ns), narrow)[0] == 200
    changed = cloud.code(user, "PUT", path, wide)
    assert changed[0] == 422 and "roleRef" in changed[1]  # whoever asks: a binding binds one role
    with pytest.raises(ApiError) as e:
        cloud.api("PUT", path, wide)
    assert e.value.status == 422
    assert cloud.code(user, "DELETE", path)[0] == 200
    cloud.api("POST", url(kind, ns), {**wide, "subjects": []})
    more = {"subjects": [{"kind": "User", "apiGroup": API, "name": user}]}
    for how in ["merge-patch", "strategic-merge-patch"]:
        assert cloud.code(user, "PATCH", path, more, content_type=f"application/{how}+json") == refused
    assert cloud.code(user, "PATCH", path, [{"op": "add", "path": "/subjects", "value": more["subjects"]}], content_type="application/json-patch+json") == refused
    assert cloud.code(user, "PUT", path, wide) == refused
    absent = cloud.code(user, "POST", url(kind, ns), binding(kind, "absent", role, "absent", user, ns=ns))
    assert absent == (404, f'{PLURALS[role]}.{API} "absent" not found')
    # The verb that lifts it, on that role.
    grant(cloud, ns, user, rule("bind", PLURALS[role], names=[big]))
    assert cloud.code(user, "PUT", path, wide)[0] == 200
    assert cloud.code(user, "POST", url(kind, ns), binding(kind, "absent", role, "absent", user, ns=ns))[0] == 404
    cloud.api("DELETE", path)


def test_rules_held_in_one_project_are_not_given_in_another_nor_everywhere(cloud, project):
    other = cloud.project(project + "-b")
    grant(cloud, project, "erin", GET_SECRETS)
    grant(cloud, other, "erin", WRITE_ROLES)
    grant(cloud, None, "erin", WRITE_ROLES)
    role = thing("Role", "r", rules=[GET_SECRETS])
    assert cloud.code("erin", "POST", url("Role", project), role)[0] == 200
    assert cloud.code("erin", "POST", url("Role", other), role)[0] == 403
    assert cloud.code("erin", "POST", url("ClusterRole"), thing("ClusterRole", f"r-{project}", rules=[GET_SECRETS]))[0] == 403


def test_who_gathers_rules_holds_all(cloud, project):
    selectors = {"clusterRoleSelectors": [{"matchLabels": {"x": project}}]}
    grant(cloud, None, "frank", WRITE_ROLES)
    path = url("ClusterRole", None, f"g-{project}")
    gathering = thing("ClusterRole", f"g-{project}", aggregationRule=selectors)
    refused = (403, f'clusterroles.{API} "g-{project}" is forbidden: must have cluster-admin privileges to use an aggregationRule')
    assert cloud.code("frank", "POST", url("ClusterRole"), gathering) == refused
    cloud.api("POST", url("ClusterRole"), gathering)
    assert cloud.code("frank", "PUT", path, thing("ClusterRole", f"g-{project}", rules=[])) == refused
    assert cloud.code("frank", "PATCH", path, {"metadata": {"labels": {"a": "b"}}}, content_type="application/merge-patch+json") == refused
    bind = grant(cloud, None, "frank", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]})
    assert cloud.code("frank", "PUT", path, thing("ClusterRole", f"g-{project}", rules=[]))[0] == 200
    cloud.api("DELETE", url("ClusterRoleBinding", None, bind))


def test_shape_of_roles_and_bindings(cloud, project):
    def causes(kind, ns, **members):
        with pytest.raises(ApiError) as e:
            cloud.api("POST", url(kind, ns), thing(kind, "x", ns, **members))
        assert e.value.status == 422, e.value.body
        return {c["field"] for c in e.value.body["details"]["causes"]}
    ref = {"apiGroup": API, "kind": "ClusterRole", "name": "view"}
    assert causes("Role", project, rules=[{"verbs": [], "apiGroups": [""], "resources": ["x"]}]) == {"rules[0].verbs"}
    assert causes("Role", project, rules=[{"verbs": ["get"]}]) == {"rules[0].apiGroups", "rules[0].resources"}
    assert causes("Role", project, rules=[GET_MAPS, {"verbs": ["get"], "nonResourceURLs": ["/x"]}]) == {"rules[1].nonResourceURLs"}
    assert causes("ClusterRole", None, rules=[{"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["x"]}]) == {"rules[0].nonResourceURLs"}
    assert causes("ClusterRole", None, aggregationRule={"clusterRoleSelectors": []}) == {"aggregationRule.clusterRoleSelectors"}
    assert causes("ClusterRole", None, aggregationRule={"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "Gt"}]}]}) == {
        "aggregationRule.clusterRoleSelectors[0].matchExpressions[0]"}
    assert causes("RoleBinding", project, roleRef={**ref, "apiGroup": "x"}) == {"roleRef.apiGroup"}
    assert causes("ClusterRoleBinding", None, roleRef={**ref, "kind": "Role"}) == {"roleRef.kind"}
    assert causes("ClusterRoleBinding", None, roleRef=ref, subjects=[{"kind": "ServiceAccount", "name": "a"}]) == {"subjects[0].namespace"}
    assert causes("RoleBinding", project, roleRef=ref, subjects=[{"kind": "ServiceAccount", "name": "A_"}, {"kind": "User", "name": "u", "apiGroup": "x"}]) == {"subjects[0].name", "subjects[1].apiGroup"}
    made = cloud.api("POST", url("RoleBinding", project), thing("RoleBinding", "x", project, roleRef={"kind": "ClusterRole", "name": "view"},
                                                                subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "a"}]))
    assert made["roleRef"] == ref and made["subjects"] == [{"kind": "User", "name": "u", "apiGroup": API}, {"kind": "ServiceAccount", "name": "a"}]


# ---- from when on a change counts ----

def pipelined(cloud, *requests):
    """Several requests in one packet of one connection, each of a user of its own; the statuses of the answers."""
    host, port = cloud.address("api").rsplit(":", 1)
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    text = b""
    for i, (user, method, path, body) in enumerate(requests):
        data = json.dumps(body).encode() if body is not None else b""
        close = "Connection: close\r\n" if i == len(requests) - 1 else ""
        text += f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token(user)}\r\n{close}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    with socket.create_connection((host, int(port)), timeout=30) as plain, context.wrap_socket(plain, server_hostname=host) as s:
        s.sendall(text)
        answer = b""
        while chunk := s.recv(65536):
            answer += chunk
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def test_a_change_counts_from_its_answer_on(cloud, project):
    """The next request on the connection is served in the very turn of the loop in which the write is answered: no watch has told anybody yet."""
    cloud.api("POST", url("Role", project), thing("Role", "r", project, rules=[GET_SECRETS]))
    read = ("bob", "GET", f"/api/v1/namespaces/{project}/secrets/x", None)
    bind = binding("RoleBinding", "b", "Role", "r", "bob", ns=project)
    one, drop = url("RoleBinding", project, "b"), {"metadata": {"name": "r"}, "rules": [GET_MAPS]}
    assert pipelined(cloud, read, ("root", "POST", url("RoleBinding", project), bind), read) == [403, 201, 404]
    assert pipelined(cloud, ("root", "DELETE", one, None), read) == [200, 403]
    assert pipelined(cloud, ("root", "POST", url("RoleBinding", project), bind), read, ("root", "PUT", url("Role", project, "r"), drop), read) == [201, 404, 200, 403]
    collection = url("RoleBinding", project)
    assert pipelined(cloud, ("root", "PUT", url("Role", project, "r"), {**drop, "rules": [GET_SECRETS]}), read, ("root", "DELETE", collection, None), read) == [200, 404, 200, 403]
