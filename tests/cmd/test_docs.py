"""The pages say what the program says: options, metrics, reasons, verbs; links lead somewhere."""
import re
import subprocess
import sys

import pytest

from cloud import ROOT, SEKI, SEKID, wait_for

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_page_of_options_is_what_the_program_says():
    p = subprocess.run([sys.executable, str(ROOT / "tools" / "options-page"), str(SEKID)], capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "operate" / "configuration.md").read_text()
    assert page == p.stdout, "write it anew: tools/options-page build/release/src/sekid >docs/operate/configuration.md"


def test_every_metric_is_explained(cloud):
    cloud.project("demo")
    cloud.fake_endpoint("demo", "fake")
    secret = cloud.key("demo")
    env = {"OPENAI_BASE_URL": cloud.base_url, "OPENAI_API_KEY": secret, "SEKI_MODEL": "fake"}
    wait_for(lambda: cloud.seki("chat", "hi", env=env, check=False).returncode == 0, what="an answer")
    there = {role: set(re.findall(r"^# TYPE (\w+)", cloud.metrics(name), re.M)) for role, name in (("control", "metrics"), ("gateway", "metrics-gateway"))}
    table = {}
    for names, role in re.findall(r"^\| (`[^|]*`) \| (control|gateway|both) \|", (ROOT / "docs" / "operate" / "observe.md").read_text(), re.M):
        for name in re.findall(r"`(\w+)`", names):
            for r in ("control", "gateway") if role == "both" else (role,):
                table.setdefault(r, set()).add(name)
    assert table == there


# Words of Kubernetes' own objects, which are read or written here.
THEIRS = {"Pod", "Namespace", "NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim", "Bound", "Released", "Failed", "Succeeded", "Delete", "Filesystem", "ReadWriteOnce", "ReadWriteOncePod",
          "Ingress", "Egress", "In", "NotIn", "Exists", "DoesNotExist", "Ki", "Mi", "Gi", "Ti", "None", "VolumeSnapshot", "VolumeSnapshotContent", "PodScheduled", "ReplicaFailure"}


def test_every_reason_is_explained():
    page = (ROOT / "docs" / "operate" / "troubleshoot.md").read_text()
    reasons = set()
    for source in (*ROOT.glob("src/inference/*.c"), *ROOT.glob("src/kaas/*.c"), *ROOT.glob("src/node/*.c")):
        if source.name == "storage_kinds.c":  # schemas
            continue
        text = re.sub(r'json_pack\(.*?\);', "", source.read_text(), flags=re.S)  # their words are documents' 
        reasons |= set(re.findall(r'"([A-Z][a-z]+[A-Za-z]*)"', text)) - {"True", "False", "Unknown", "Warning", "Normal", "Opaque", "Small", "Medium", "Large", "Service", "EndpointSlice", "LoadBalancer", "ClientIP", "Fail", "Ignore", "DaemonSet", "Failed", "Succeeded"} - THEIRS
    assert len(reasons) > 15
    missing = [r for r in sorted(reasons) if f"`{r}`" not in page]
    assert not missing, missing


def test_every_code_of_the_gateway_is_explained():
    page = (ROOT / "docs" / "use" / "quickstart.md").read_text()
    codes = set()
    for source in ROOT.glob("src/gateway/*.c"):
        codes |= set(re.findall(r'"(?:invalid_request_error|permission_error|server_error)", (?:[^"]*\? )?"(\w+)"(?: : "(\w+)")?', source.read_text()))
    codes = {c for pair in codes for c in pair if c}
    assert len(codes) > 8
    missing = [c for c in sorted(codes) if f"`{c}`" not in page]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "internals").glob("*.md")), ids=lambda p: p.stem)
def test_names_of_the_code_are_where_a_page_says(page):
    """`NAME` in `file.c` and `function()` in `file.c`: who looks there finds it."""
    wrong = []
    for names, file in re.findall(r"((?:`\w+(?:\(\))?`, )*`\w+(?:\(\))?`) in `((?:[a-z_-]+/)*[a-z0-9_-]+\.[ch])`", page.read_text()):
        text = "".join(p.read_text() for p in ROOT.glob(f"src/**/{file.removeprefix('src/')}"))
        wrong += [f"{name} in {file}" for name in re.findall(r"`(\w+)", names) if not re.search(rf"\b{name}\b", text)]
    assert not wrong


@pytest.mark.parametrize("page, folder", [("kaas", "kaas"), ("kaas", "node"), ("gateway", "gateway")])
def test_a_table_of_files_has_them_all(page, folder):
    text = (ROOT / "docs" / "internals" / f"{page}.md").read_text()
    assert [] == [p.name for p in sorted((ROOT / "src" / folder).glob("*.c")) if f"`{p.name}`" not in text]


def test_commands_in_pages_exist():
    """Every seki verb and sekid option that a page shows is one."""
    verbs = re.findall(r"^  ([\w-]+(?: \w+)?)  +", subprocess.run([str(SEKI), "--help"], capture_output=True, text=True).stdout, re.M)
    options = subprocess.run([str(SEKID), "--help"], capture_output=True, text=True).stdout
    assert "key create" in verbs
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in re.findall(r"(?:^|\$\(|&& |^\w+=\S+ )seki ((?:-n \w+ )?.*)", block, re.M):
                words = re.sub(r"^-n \w+ ", "", line)
                assert any(re.match(rf"{v}\b", words) for v in verbs), (page.name, line)
            for flag in re.findall(r"^sekid (.*)", block, re.M):
                for name in re.findall(r"(--[\w-]+)", flag):
                    assert name in options, (page.name, name)


def test_the_gateway_in_one_command_is_one(own_cloud, tmp_path):
    """The page's manifest under the page's options: the daemon takes them, and looks for the page's server."""
    page = (ROOT / "docs" / "use" / "one-command.md").read_text()
    (tmp_path / "gateway.yaml").write_text(re.search(r"<<'END'\n(.*?)^END", page, re.M | re.S)[1])
    line = re.search(r"^sekid (--data=.*) &$", page, re.M)[1]
    options = dict(o.removeprefix("--").split("=", 1) for o in line.split())
    del options["data"]
    cloud = own_cloud(options={"engine-remote-allow": "", **options, "manifests": tmp_path})
    assert (cloud.data / "keys" / "shop" / "app").exists()

    def reason():
        conditions = cloud.get("modelendpoints", "shop", "chat").get("status", {}).get("conditions", [])
        return next((c["reason"] for c in conditions if c["type"] == "Ready" and c["reason"] not in ("Creating", "Starting", "Loading")), None)
    assert wait_for(reason, 30, "a verdict about the endpoint") in ("ServerUnavailable", "Serving")


def test_a_backup_has_the_keys_of_every_project(tmp_path):
    """Whatever the project is called: run, log and models are left out at the top only."""
    line = re.search(r"^tar .*", (ROOT / "docs" / "operate" / "lifecycle.md").read_text(), re.M)[0]
    data, archive = tmp_path / "data", tmp_path / "backup.tar.gz"
    kept = [data / "seki.db", data / "pki" / "pepper", *(data / "keys" / p / "app" for p in ("shop", "run", "log", "models"))]
    for path in [*kept, data / "run" / "x", data / "log" / "x", data / "models" / "x"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run([str(archive) if w == "/root/seki-backup.tar.gz" else str(data) if w == "/var/lib/seki" else w for w in line.split()], check=True)
    there = subprocess.run(["tar", "-tzf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    assert {n for n in there if not n.endswith("/")} == {f"./{p.relative_to(data)}" for p in kept}


@pytest.mark.parametrize(("page", "least"), [("front-door", 60), ("gateway-sentences", 100), ("kaas-sentences", 70)])
def test_each_test_that_a_page_names_is_there(page, least):
    page = (ROOT / "docs" / "internals" / f"{page}.md").read_text()
    named = 0
    for file, rest in re.findall(r"`((?:api|chaos|cmd|gateway|packaging|upgrade|demo|kaas)/[a-z0-9_/]+\.py)`((?:(?!`[a-z]+/)[^|])*)", page):
        text = (ROOT / "tests" / file).read_text()
        for name in re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)*)`", re.sub(r"\[(?:`\w+`(?:, )?)+\]", "", rest).split(";")[0]):
            assert f"def test_{name}(" in text, f"{file} has no test {name}"
            named += 1
    assert named > least
    for name in re.findall(r"\[((?:`[a-z0-9_]+`(?:, )?)+)\]", page):
        for unit in re.findall(r"`(\w+)`", name):
            assert (ROOT / "tests" / "unit" / f"test_{unit}.c").exists(), unit


def test_each_test_of_the_torture_page_is_there():
    page, file, named = (ROOT / "docs" / "internals" / "gateway-torture.md").read_text(), None, 0
    for path, name in re.findall(r"`((?:\w+/)?test_\w+\.(?:py|c))?(?:::(test_\w+))?`", page):
        file = path or file
        if not name:
            continue
        folder = ROOT / "tests" / ("" if file.startswith("unit/") else "gateway")
        assert f"def {name}(" in (folder / file).read_text(), f"{file} has no test {name}"
        named += 1
    assert named > 30
