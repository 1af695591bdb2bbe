"""RBAC as Kubernetes has it: who may grant what, as whom one may act, roles that gather others, the default roles."""
import hashlib
import http.client
import json
import re
import socket
import ssl
import urllib.parse

import pytest

from cloud import ApiError, Cloud, wait_for

RBAC = "/apis/rbac.authorization.k8s.io/v1"
API = "rbac.authorization.k8s.io"
PLURALS = {"Role": "roles", "ClusterRole": "clusterroles", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings"}
GET_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
GET_MAPS = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
USERS = ["alice", "bob", "carol", "dave", "erin", "frank", "ada", "ed", "vi", "kim"]


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


@pytest.fixture
def own_people():
    made = []

    def make():
        made.append(People())
        return made[-1].start()
    yield make
    for c in made:
        c.__exit__(None, None, None)


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


# ---- the default roles ----

TABLE = """
resource                                       admin       edit        view
v1 namespaces                                  g.......    g.......    g.......
v1 namespaces/status                           g.......    g.......    g.......
v1 secrets                                     glwcupdD    glwcupdD    ........
v1 configmaps                                  glwcupdD    glwcupdD    glw.....
v1 events                                      glwcupdD    glwcupdD    glw.....
v1 serviceaccounts                             glwcupdD    glwcupdD    glw.....
v1 serviceaccounts/token                       ........    ........    ........
apiextensions.k8s.io customresourcedefinitions glw.....    glw.....    glw.....
authorization.k8s.io localsubjectaccessreviews ...c....    ........    ........
coordination.k8s.io leases                     glwcupdD    glwcupdD    glw.....
events.k8s.io events                           glwcupdD    glwcupdD    glw.....
rbac.authorization.k8s.io roles                glwcupdD    ........    ........
rbac.authorization.k8s.io rolebindings         glwcupdD    ........    ........
rbac.authorization.k8s.io clusterroles         ........    ........    ........
rbac.authorization.k8s.io clusterrolebindings  ........    ........    ........
seki.cloud tenants                             ........    ........    ........
seki.cloud tenants/status                      ........    ........    ........
seki.cloud tenants/audit                       ........    ........    ........
seki.cloud accessgrants                        glwcupdD    glw.....    glw.....
seki.cloud accessgrants/status                 g.......    g.......    g.......
seki.cloud models                              glwcupdD    glwcupdD    glw.....
seki.cloud models/status                       g.......    g.......    g.......
seki.cloud modelendpoints                      glwcupdD    glwcupdD    glw.....
seki.cloud modelendpoints/status               g.......    g.......    g.......
seki.cloud modelendpoints/scale                g...up..    g...up..    g.......
seki.cloud modelreplicas                       glw.....    glw.....    glw.....
seki.cloud modelreplicas/status                g.......    g.......    g.......
seki.cloud projectlimits                       glwcupdD    glw.....    glw.....
seki.cloud projectlimits/status                g.......    g.......    g.......
seki.cloud clusterkeys                         ........    ........    ........
seki.cloud clusters                            glwcupdD    glwcupdD    glw.....
seki.cloud clusters/audit                      g.......    ........    ........
seki.cloud clusters/log                        g.......    g.......    g.......
seki.cloud clusters/status                     g.......    g.......    g.......
seki.cloud apikeys                             glwcupdD    glwcupdD    glw.....
seki.cloud keyrotations                        ........    ........    ........
seki.cloud sloreports                          glw.....    glw.....    glw.....
seki.cloud sloreports/status                   g.......    g.......    g.......
seki.cloud usagereports                        glw.....    glw.....    glw.....
seki.cloud usagereports/status                 g.......    g.......    g.......
seki.cloud userrevocations                     ........    ........    ........
seki.cloud gatewayleases                       ........    ........    ........
seki.cloud gatewayloads                        ........    ........    ........
seki.cloud modelroutes                         glwcupdD    glwcupdD    glw.....
seki.cloud modelroutes/status                  g.......    g.......    g.......
seki.cloud nodepools                           glwcupdD    glwcupdD    glw.....
seki.cloud nodepools/status                    g.......    g.......    g.......
seki.cloud prices                              ........    ........    ........
seki.cloud residencypolicies                   glwcupdD    glw.....    glw.....
seki.cloud sites                               ........    ........    ........
"""
VERBS = {"g": "get", "l": "list", "w": "watch", "c": "create", "u": "update", "p": "patch", "d": "delete", "D": "deletecollection"}
TIERS = {"admin": "ada", "edit": "ed", "view": "vi"}


def resources(cloud):
    """(group, base path, resource, namespaced) of everything in discovery."""
    yield from (("v1", "/api/v1", r["name"], r["namespaced"]) for r in cloud.api("GET", "/api/v1")["resources"])
    for group in cloud.api("GET", "/apis")["groups"]:
        base = f"/apis/{group['preferredVersion']['groupVersion']}"
        yield from ((group["name"], base, r["name"], r["namespaced"]) for r in cloud.api("GET", base)["resources"])


def allowed(cloud, user, base, resource, namespaced, ns):
    """The verbs that are not answered by 403 or 405, on an object that is not there. A request that is let through does nothing."""
    plural, _, sub = resource.partition("/")
    many = f"{base}/namespaces/{ns}/{plural}" if namespaced else f"{base}/{plural}"
    one = f"{many}/{'absent' if namespaced or plural != 'namespaces' else ns}{f'/{sub}' if sub else ''}"
    json_type, merge = "application/json", "application/merge-patch+json"
    tries = {"g": ("GET", one, None, json_type), "u": ("PUT", one + "?dryRun=All", {}, json_type), "p": ("PATCH", one + "?dryRun=All", {}, merge)}
    if not sub:
        tries |= {"l": ("GET", many, None, json_type), "w": ("GET", f"{many}?watch=1&resourceVersion=999999999999", None, json_type),
                  "c": ("POST", many + "?dryRun=All", {}, json_type), "d": ("DELETE", one + "?dryRun=All", None, json_type), "D": ("DELETE", many + "?dryRun=All", None, json_type)}
    seen = {letter: cloud.code(user, method, path, body, content_type=kind)[0] for letter, (method, path, body, kind) in tries.items()}
    assert set(seen.values()) <= {200, 400, 403, 404, 405, 409, 415, 422, 504}, seen
    return "".join(v if seen.get(v, 403) not in (403, 405) else "." for v in VERBS)


@pytest.fixture
def staffed(cloud, project):
    for tier, user in TIERS.items():
        cloud.api("POST", url("RoleBinding", project), binding("RoleBinding", tier, "ClusterRole", tier, user, ns=project))
    yield project
    for tier in TIERS:
        cloud.api("DELETE", url("RoleBinding", project, tier))


def test_what_the_default_roles_allow(cloud, staffed):
    found = ["resource".ljust(47) + "".join(t.ljust(12) for t in TIERS)]
    for group, base, resource, namespaced in resources(cloud):
        if namespaced or group != "authorization.k8s.io" and group != "authentication.k8s.io":
            found.append(f"{group} {resource}".ljust(47) + "".join(allowed(cloud, u, base, resource, namespaced, staffed).ljust(12) for u in TIERS.values()))
    wanted = TABLE.strip().splitlines()
    assert sorted(line.rstrip() for line in found) == sorted(wanted)


def test_the_default_roles_end_at_the_project(cloud, staffed):
    other = cloud.project(staffed + "-x")
    for group, base, resource, namespaced in resources(cloud):
        if group in ("authorization.k8s.io", "authentication.k8s.io", "apiextensions.k8s.io"):  # what everybody may ask, and what is empty for everybody
            continue
        for user in TIERS.values():
            assert allowed(cloud, user, base, resource, namespaced, other) == "........", (user, resource)
            if "/" not in resource:
                assert cloud.code(user, "GET", f"{base}/{resource}")[0] in (403, 405)  # 405: what can only be asked


def test_a_project_admin_gives_what_he_has(cloud, staffed):
    for role in ["view", "edit", "admin"]:
        assert cloud.code("ada", "POST", url("RoleBinding", staffed), binding("RoleBinding", f"to-{role}", "ClusterRole", role, "dave", ns=staffed))[0] == 200
    refused = cloud.code("ada", "POST", url("RoleBinding", staffed), binding("RoleBinding", "x", "ClusterRole", "cluster-admin", "dave", ns=staffed))
    assert refused[0] == 403 and '{APIGroups:["*"], Resources:["*"], Verbs:["*"]}\n{NonResourceURLs:["*"], Verbs:["*"]}' in refused[1]
    lies = thing("Role", "lies", staffed, rules=[{"apiGroups": ["seki.cloud"], "resources": ["modelreplicas/status"], "verbs": ["update"]}])
    assert cloud.code("ada", "POST", url("Role", staffed), lies)[0] == 403
    assert cloud.code("ed", "POST", url("RoleBinding", staffed), binding("RoleBinding", "x", "ClusterRole", "view", "dave", ns=staffed))[0] == 403


def test_everybody_who_is_known_discovers(cloud):
    for path in ["/api", "/apis", "/api/v1", "/version", "/openapi/v3", "/apis/seki.cloud/v1alpha1"]:
        assert cloud.code("frank", "GET", path)[0] == 200, path
    assert cloud.code("frank", "GET", "/metrics")[0] == 403
    rules = cloud.api("GET", url("ClusterRole", None, "system:basic-user"))["rules"]
    assert {(g, r) for x in rules for g in x["apiGroups"] for r in x["resources"]} == {("authorization.k8s.io", "selfsubjectaccessreviews"), ("authorization.k8s.io", "selfsubjectrulesreviews"),
                                                                                       ("authentication.k8s.io", "selfsubjectreviews")} and all(x["verbs"] == ["create"] for x in rules)
    viewers = cloud.api("GET", url("ClusterRoleBinding", None, "system:public-info-viewer"))["subjects"]
    assert {s["name"] for s in viewers} == {"system:authenticated", "system:unauthenticated"}


def test_default_roles_are_reconciled_at_start(own_people):
    cloud = own_people()
    role, bind = url("ClusterRole", None, "system:discovery"), url("ClusterRoleBinding", None, "system:discovery")
    basic, edit = url("ClusterRole", None, "system:basic-user"), url("ClusterRole", None, "edit")
    merge = {"content_type": "application/merge-patch+json"}
    wanted = cloud.api("GET", role)["rules"]
    own = {"nonResourceURLs": ["/own"], "verbs": ["get"]}
    cloud.api("PATCH", role, {"rules": [own]}, **merge)
    cloud.api("PATCH", bind, {"subjects": [{"kind": "User", "apiGroup": API, "name": "zoe"}], "metadata": {"annotations": None}}, **merge)
    cloud.api("PATCH", basic, {"rules": [], "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}}, **merge)
    # As an earlier release wrote it.
    cloud.api("DELETE", edit)
    cloud.api("POST", url("ClusterRole"), thing("ClusterRole", "edit", rules=[{"apiGroups": ["seki.cloud"], "resources": ["*"], "verbs": ["*"]}]))
    # Somebody bound it to another role: that is undone.
    cloud.api("DELETE", url("ClusterRoleBinding", None, "cluster-admin"))
    cloud.api("POST", url("ClusterRoleBinding"), binding("ClusterRoleBinding", "cluster-admin", "ClusterRole", "view", "zoe"))
    cloud.api("DELETE", url("ClusterRole", None, "view"))
    cloud.stop()
    cloud.start()
    rules = cloud.api("GET", role)["rules"]
    assert own in rules and {p for r in rules for p in r["nonResourceURLs"]} == {p for r in wanted for p in r["nonResourceURLs"]} | {"/own"}
    after = cloud.api("GET", bind)
    assert [s["name"] for s in after["subjects"]] == ["zoe", "system:authenticated"] and after["metadata"]["annotations"] == {"rbac.authorization.kubernetes.io/autoupdate": "true"}
    assert cloud.api("GET", basic)["rules"] == []
    assert cloud.api("GET", url("ClusterRole", None, "view"))["aggregationRule"]
    assert cloud.api("GET", url("ClusterRoleBinding", None, "cluster-admin"))["roleRef"]["name"] == "cluster-admin"
    assert cloud.api("GET", edit)["aggregationRule"]
    cloud.project("old")
    cloud.api("POST", url("RoleBinding", "old"), binding("RoleBinding", "b", "ClusterRole", "edit", "bob", ns="old"))
    lie = "/apis/seki.cloud/v1alpha1/namespaces/old/modelreplicas/x/status"
    assert cloud.code("bob", "PUT", lie, {})[0] == 403 and cloud.code("bob", "GET", lie)[0] == 404
    wait_for(lambda: any("modelendpoints/scale" in r["resources"] for r in cloud.api("GET", edit)["rules"]), what="the gathered rules to be shown")
    # Once more changes nothing.
    seen = {k: {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in cloud.api("GET", url(k))["items"]} for k in ["ClusterRole", "ClusterRoleBinding"]}
    cloud.stop()
    cloud.start()
    assert seen == {k: {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in cloud.api("GET", url(k))["items"]} for k in ["ClusterRole", "ClusterRoleBinding"]}


# ---- names ----

def test_names_of_a_rule_hold_for_lists_of_that_name(cloud, project):
    grant(cloud, project, "frank", rule("get list watch", "configmaps", "", names=["one", "two"]))
    base = f"/api/v1/namespaces/{project}/configmaps"
    for query, status in {"": 403, "?fieldSelector=metadata.name%3Done": 200, "?fieldSelector=metadata.name%3D%3Dtwo": 200, "?fieldSelector=metadata.name%3Dthree": 403,
                          "?fieldSelector=metadata.name!%3Done": 403, "?fieldSelector=metadata.namespace%3Done": 403, "?labelSelector=metadata.name%3Done": 403,
                          "?fieldSelector=metadata.name%3Dthree,metadata.name%3Done": 403, "?fieldSelector=metadata.name%3D": 403, "?fieldSelector=nonsense": 403}.items():
        assert cloud.code("frank", "GET", base + query)[0] == status, query
        separator = "&" if query else "?"
        assert cloud.code("frank", "GET", f"{base}{query}{separator}watch=1&resourceVersion=999999999999")[0] == (504 if status == 200 else 403), query
    # What else is selected narrows further.
    cloud.api("POST", base, {"metadata": {"name": "one"}})
    cloud.api("POST", base, {"metadata": {"name": "three"}})
    seen = cloud.as_user("frank", "GET", base + "?fieldSelector=metadata.name%3Done")["items"]
    assert [o["metadata"]["name"] for o in seen] == ["one"]
    assert cloud.code("frank", "DELETE", base + "?fieldSelector=metadata.name%3Done")[0] == 403
    assert cloud.kubectl_as("frank", "get", "configmap", "-n", project, "--field-selector=metadata.name=one").stdout.count("one") == 1


def test_subjects_that_are_service_accounts(cloud, project):
    cloud.api("POST", url("Role", project), thing("Role", "r", project, rules=[GET_MAPS]))
    cloud.api("POST", url("RoleBinding", project), thing("RoleBinding", "b", project, roleRef={"kind": "Role", "name": "r"}, subjects=[
        {"kind": "ServiceAccount", "name": "own"}, {"kind": "ServiceAccount", "name": "far", "namespace": "default"}]))
    for account, status in {f"{project}:own": 404, "default:own": 403, "default:far": 404, f"{project}:far": 403}.items():
        headers = {"Impersonate-User": f"system:serviceaccount:{account}"}
        assert cloud.code("root", "GET", f"/api/v1/namespaces/{project}/configmaps/x", headers=headers)[0] == status, account


# ---- impersonation ----

NODES = "/api/v1/namespaces/{}/configmaps/x"


def act_as(user, *groups, uid=None, **extra):
    headers = [("Impersonate-User", user)] if user is not None else []
    headers += [("Impersonate-Group", g) for g in groups] + ([("Impersonate-Uid", uid)] if uid else [])
    return headers + [(f"Impersonate-Extra-{k}", v) for k, values in extra.items() for v in values]


def impersonating(cloud, sender, method, path, headers, body=None):
    """A request with headers that may come more than once: status and message."""
    address = urllib.parse.urlsplit(cloud.api_url)
    context = ssl.create_default_context(cafile=str(cloud.data / "pki" / "ca.crt"))
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=60, context=context)
    data = json.dumps(body).encode() if body is not None else b""
    try:
        connection.putrequest(method, path)
        for name, value in [("Authorization", f"Bearer {token(sender)}"), ("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers]:
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("message", "")
    finally:
        connection.close()


def refusal(sender, resource, name, group="", sub="", ns=None):
    where = f'in the namespace "{ns}"' if ns else "at the cluster scope"
    return (403, f'{resource}{"." + group if group else ""} "{name}" is forbidden: User "{sender}" cannot impersonate resource "{resource}{"/" + sub if sub else ""}" in API group "{group}" {where}')


def test_each_thing_to_be_is_asked_for(cloud, project):
    path = NODES.format(project)

    def told(headers):
        return impersonating(cloud, "kim", "GET", path, headers)
    assert told(act_as("zoe")) == refusal("kim", "users", "zoe")
    grant(cloud, None, "kim", rule("impersonate", "users", "", names=["zoe"]))
    assert told(act_as("zoe"))[0] == 403 and 'User "zoe" cannot get resource "configmaps"' in told(act_as("zoe"))[1]
    assert told(act_as("zac")) == refusal("kim", "users", "zac")
    assert told(act_as("zoe", "staff")) == refusal("kim", "groups", "staff")
    assert told(act_as("zoe", "system:masters")) == refusal("kim", "groups", "system:masters")
    assert told(act_as("zoe", uid="7")) == refusal("kim", "uids", "7", "authentication.k8s.io")
    assert told(act_as("zoe", scopes=["x"])) == refusal("kim", "userextras", "x", "authentication.k8s.io", "scopes")
    assert told(act_as("system:serviceaccount:default:bot")) == refusal("kim", "serviceaccounts", "bot", ns="default")
    grant(cloud, None, "kim", rule("impersonate", "groups", "", names=["staff"]), rule("impersonate", "uids userextras/scopes", "authentication.k8s.io", names=["7", "x"]))
    grant(cloud, "default", "kim", rule("impersonate", "serviceaccounts", "", names=["bot"]))
    for headers in [act_as("zoe", "staff"), act_as("zoe", uid="7"), act_as("zoe", "staff", uid="7", scopes=["x"]), act_as("system:serviceaccount:default:bot")]:
        assert told(headers)[0] == 403 and "cannot get resource" in told(headers)[1], headers
    assert told(act_as("zoe", "staff", "other")) == refusal("kim", "groups", "other")
    assert told(act_as("zoe", "other", "staff")) == refusal("kim", "groups", "other")
    assert told(act_as("zoe", scopes=["x", "y"])) == refusal("kim", "userextras", "y", "authentication.k8s.io", "scopes")
    assert told(act_as("zoe", teams=["x"])) == refusal("kim", "userextras", "x", "authentication.k8s.io", "teams")
    assert told([*act_as("zoe"), ("Impersonate-Extra-Acme.com%2FSCOPES", "x")]) == refusal("kim", "userextras", "x", "authentication.k8s.io", "acme.com/scopes")
    assert told(act_as("system:serviceaccount:default:other")) == refusal("kim", "serviceaccounts", "other", ns="default")


def test_whoever_is_impersonated_has_no_power_of_the_sender(cloud, project):
    path = NODES.format(project)

    def status(headers, method="GET", body=None, path=path):
        return impersonating(cloud, "root", method, path, headers, body)[0]
    assert status([]) == 404 and status(act_as("zoe")) == 403
    assert status(act_as("zoe", "system:masters")) == 404
    grant(cloud, project, "zoe", GET_MAPS)
    assert status(act_as("zoe")) == 404 and status(act_as("ZOE")) == 403
    # Groups: those that are named; the known are among the known.
    for group, ns in [("crew", project), ("system:serviceaccounts", project), (f"system:serviceaccounts:{project}", project)]:
        name = f"b-{group.replace(':', '-')}"
        cloud.api("POST", url("Role", ns), thing("Role", name, ns, rules=[rule("list", "configmaps", "")]))
        cloud.api("POST", url("RoleBinding", ns), thing("RoleBinding", name, ns, roleRef={"kind": "Role", "name": name}, subjects=[{"kind": "Group", "name": group}]))
    many = path.rsplit("/", 1)[0]
    assert status(act_as("zac", "crew"), path=many) == 200 and status(act_as("zac", "other", "crew"), path=many) == 200 and status(act_as("zac", "others"), path=many) == 403
    assert status(act_as("system:serviceaccount:default:a"), path=many) == 200
    assert status(act_as("system:serviceaccount:default:a", "other"), path=many) == 403
    assert status(act_as("system:serviceaccount:default:A_"), path=many) == 403
    assert status(act_as("zac"), path="/api") == 200  # system:authenticated is added
    assert status(act_as("zac", "other"), path="/api") == 200
    assert status(act_as("zac", "system:unauthenticated"), path="/api") == 403
    assert status(act_as("system:anonymous"), path="/api") == 403
    assert status(act_as("zac", "system:unauthenticated"), path="/version") == 200
    # What is not granted cannot be granted either.
    assert status(act_as("zac"), "POST", binding("RoleBinding", "x", "ClusterRole", "admin", "zac", ns=project), url("RoleBinding", project)) == 403


@pytest.mark.parametrize("headers,words", [
    (act_as(None, "g"), "without impersonating a user"), (act_as(None, uid="7"), "without impersonating a user"), (act_as(None, scopes=["x"]), "without impersonating a user"),
    (act_as(""), "Impersonate-User"), (act_as("zoe", ""), "Impersonate-Group"), ([*act_as("zoe"), ("Impersonate-User", "zac")], "named twice"),
    ([*act_as("zoe"), ("Impersonate-Power", "all")], "Impersonate-Power"), ([*act_as("zoe"), ("Impersonate-Extra-%zz", "x")], "Impersonate-Extra-"),
    ([*act_as("zoe"), ("Impersonate-Extra-%ff", "x")], "Impersonate-Extra-"), (act_as("zoe", *[f"g{i}" for i in range(30)]), "at most"), (act_as("zoe", *[f"g{i}" for i in range(20)]), "at most"),
    (act_as("zoe", scopes=[str(i) for i in range(70)]), "at most"), (act_as(b"\xff\xfe"), "UTF-8"),
])
def test_bad_headers_of_impersonation(cloud, project, headers, words):
    status, message = impersonating(cloud, "root", "GET", NODES.format(project), headers)
    assert status == 400 and words in message


def test_kubectl_as(cloud, project):
    grant(cloud, project, "zoe", rule("get list", "configmaps", ""))
    assert "No resources found" in cloud.kubectl("get", "configmaps", "-n", project, "--as=zoe").stderr
    assert cloud.kubectl("get", "secrets", "-n", project, "--as=zoe", "--as-group=system:masters", "--as-uid=7").returncode == 0
    p = cloud.kubectl("get", "secrets", "-n", project, "--as=zoe", check=False)
    assert p.returncode != 0 and 'User "zoe" cannot list resource "secrets"' in p.stderr
    p = cloud.kubectl_as("frank", "get", "secrets", "-n", project, "--as=root", "--as-group=system:masters", check=False)
    assert p.returncode != 0 and 'users "root" is forbidden: User "frank" cannot impersonate resource "users" in API group "" at the cluster scope' in p.stderr


# ---- roles that gather others ----

def test_rules_follow_the_roles_that_are_selected(cloud, staffed):
    """A new kind labels its role, and the roles of a project have it, from the answer on; what is shown follows."""
    name, label = f"new-{staffed}", "rbac.authorization.k8s.io/aggregate-to-view"
    one, rules = url("ClusterRole", None, name), [rule("get", "widgets", "example.com")]
    merge = {"content_type": "application/merge-patch+json"}

    def shown(role):
        return rules[0] in cloud.api("GET", url("ClusterRole", None, role)).get("rules", [])

    def holds(user):
        """Who holds the rule may give it."""
        return cloud.code(user, "POST", url("Role", staffed) + "?dryRun=All", thing("Role", "probe", staffed, rules=rules))[0] == 200
    write = grant(cloud, staffed, "vi", WRITE_ROLES)
    assert not holds("vi")
    cloud.api("POST", url("ClusterRole"), thing("ClusterRole", name, labels={label: "true"}, rules=rules))
    assert holds("vi") and holds("ada")
    for role in ["view", "edit", "admin"]:
        wait_for(lambda r=role: shown(r), what=f"{role} to show the rule")
    assert rules[0] not in cloud.api("GET", url("ClusterRole", None, "cluster-admin"))["rules"]
    # Rules written into a role that gathers are nobody's.
    cloud.api("PATCH", url("ClusterRole", None, "view"), {"rules": [rule("get", "gadgets", "example.com")]}, **merge)
    wait_for(lambda: shown("view"), what="the gathered rules to come back")
    # Without its label it is gathered no more.
    cloud.api("PATCH", one, {"metadata": {"labels": {label: None}}}, **merge)
    assert not holds("vi") and not holds("ada")
    wait_for(lambda: not shown("admin"), what="the rule to go")
    cloud.api("PATCH", one, {"metadata": {"labels": {label: "true"}}}, **merge)
    assert holds("vi")
    cloud.api("DELETE", one)
    assert not holds("vi")
    wait_for(lambda: not shown("view"), what="the rule to go")
    cloud.api("DELETE", url("RoleBinding", staffed, write))
