"""Requests made up from our own OpenAPI documents: nothing ends in a 5xx, and every answer is what the document says."""
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from raw import get

PROGRAM = pathlib.Path(sys.executable).parent / "schemathesis"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
# What would take away the ground that the other requests stand on.
SPARED = "deleteCollection.*(Cluster|Namespace$)|deleteCoreV1Namespace$"


def narrowed(document):
    """The document with what no schema says: which kind a body is, and which of the strings mean something. Else hardly a request would get past the first check."""
    for schema in document["components"]["schemas"].values():
        marks = schema.get("x-kubernetes-group-version-kind", [])
        properties = schema.get("properties", {})
        if len(marks) == 1 and "kind" in properties and "metadata" in properties and "items" not in properties:
            mark = marks[0]
            version = f"{mark['group']}/{mark['version']}" if mark["group"] else mark["version"]
            properties["kind"] = {"type": "string", "enum": [mark["kind"]]}
            properties["apiVersion"] = {"type": "string", "enum": [version]}
            schema["required"] = sorted({*schema.get("required", []), "kind", "apiVersion", "metadata"})
    return document


def bodies(document):
    """Bodies name objects; answers may say more."""
    schemas = document["components"]["schemas"]
    schemas["RequestMeta"] = {"type": "object", "required": ["name"], "additionalProperties": False, "properties": {
        "name": {"type": "string", "pattern": "^[a-c]{1,2}$"}}}
    for item in document["paths"].values():
        for method, op in item.items():
            if method not in ("post", "put") or "requestBody" not in op:
                continue
            for media in op["requestBody"]["content"].values():
                name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
                if "properties" in schemas.get(name, {}):
                    own = json.loads(json.dumps(schemas[name]))
                    own["properties"]["metadata"] = {"$ref": "#/components/schemas/RequestMeta"}
                    own["properties"].pop("status", None)
                    own["additionalProperties"] = False
                    schemas["Request" + name] = own
                    media["schema"] = {"$ref": f"#/components/schemas/Request{name}"}
    return document


def run(cloud, path, directory, *args):
    document = bodies(narrowed(get(cloud, f"/openapi/v3/{path}").json()))
    (directory / "openapi.json").write_text(json.dumps(document))
    (directory / "schemathesis.toml").write_text('[parameters]\n"path.namespace" = "default"\n"path.name" = "a"\n"query.watch" = "false"\n"query.resourceVersion" = "0"\n'
                                                 '"query.resourceVersionMatch" = "NotOlderThan"\n"query.labelSelector" = "a!=b"\n"query.fieldSelector" = "metadata.name!=x"\n"query.continue" = ""\n')
    pki = cloud.data / "pki"
    command = [str(PROGRAM), "--no-color", "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", cloud.api_url, "--tls-verify", pki / "ca.crt", "--request-cert",
               pki / "admin.crt", "--request-cert-key", pki / "admin.key", "--checks", CHECKS, "--exclude-operation-id-regex", SPARED, "--request-timeout", "30",
               "--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-shrink", "--seed", "7", *args]
    p = subprocess.run([str(c) for c in command], cwd=directory, capture_output=True, text=True, timeout=280, env={**os.environ, "HOME": str(directory)})
    assert p.returncode == 0, p.stdout[-12000:] + p.stderr[-3000:]
    assert "No issues found" in p.stdout


def successes(cloud, verb):
    return {m[1] for m in re.finditer(rf'seki_apiserver_requests_total{{verb="{verb}",resource="(\w+)",code="20\d"}}', cloud.metrics())}


@pytest.fixture(scope="module")
def paths(cloud):
    return list(get(cloud, "/openapi/v3").json()["paths"])


@pytest.mark.timeout(900)  # each of the runs has its own
def test_made_up_requests(cloud, paths, tmp_path):
    for path in paths:
        run(cloud, path, tmp_path, "--phases", "fuzzing", "--mode", "positive", "--max-examples", "6")
        run(cloud, path, tmp_path, "--phases", "fuzzing", "--mode", "negative", "--max-examples", "2")
    # Many got through: or only refusals would have been looked at.
    assert {"configmaps", "secrets", "apikeys", "leases", "roles"} <= successes(cloud, "create")
    assert {"configmaps", "modelendpoints"} <= successes(cloud, "list") & successes(cloud, "deletecollection")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_many_made_up_requests(cloud, paths, tmp_path):
    for path in paths:
        run(cloud, path, tmp_path, "--phases", "coverage,fuzzing", "--mode", "all", "--max-time", str(min(150, 1200 // len(paths))))
