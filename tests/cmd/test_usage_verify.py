"""seki usage verify: the usage ledger is checked by whoever has a copy of it, and reports follow from it."""
import json
import lzma
import pathlib
import shutil
import subprocess
import tarfile

import pytest

from cloud import ROOT, SEKI, Cloud, wait_for
from ledger_file import FILE_HEAD, chained, records
from wire import RawClient, post

REQUESTS = 5


@pytest.fixture(scope="module")
def used():
    """A cloud's ledger and its reports."""
    with Cloud() as c:
        c.project("demo")
        c.fake_endpoint("demo", "fake", tokens=3)
        secret = c.key("demo")
        with RawClient(c.address("gateway")) as client:
            for _ in range(REQUESTS):
                client.send(post(secret, {"model": "fake", "prompt": "one two"}, "completions"))
                assert client.response().status == 200
        wait_for(lambda: sum(r.get("status", {}).get("requests", 0) for r in json.loads(c.seki("usage", "-A", "-o", "json").stdout)) == REQUESTS, what="the reports")
        reports = c.seki("usage", "-A", "-o", "json").stdout
        ledger = c.dir / "copy"
        shutil.copytree(c.data / "ledger", ledger)
        yield ledger, reports


@pytest.fixture
def copy(used, tmp_path):
    shutil.copytree(used[0], tmp_path / "ledger")
    (tmp_path / "reports.json").write_text(used[1])
    return tmp_path / "ledger"


def verify(directory, *args):
    return subprocess.run([str(SEKI), "usage", "verify", str(directory), *args], capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"})


def rewrite(path, change):
    """Writes the ledger anew: change(list of bodies) says what is in it."""
    data = path.read_bytes()
    old = records(data)
    bodies = change([body for _, _, body in old])
    path.write_bytes(chained(data[:FILE_HEAD], [(*old[min(n, len(old) - 1)][:2], body) for n, body in enumerate(bodies)]))


def test_a_good_ledger(copy):
    p = verify(copy, "--reports", str(copy.parent / "reports.json"))
    assert p.returncode == 0 and p.stderr == "", (p.stdout, p.stderr)
    row = p.stdout.splitlines()[1].split()
    assert row[1:] == ["demo", "demo", str(REQUESTS), "0", str(2 * REQUESTS), "0", str(3 * REQUESTS), "0", "0", "0", "0"], p.stdout
    doc = json.loads(verify(copy, "-o", "json").stdout)
    assert (doc["verified"], doc["records"], doc["olderRecords"], doc["journals"]) == (True, REQUESTS, 0, 1)
    assert doc["reports"][0]["status"]["completionTokens"] == 3 * REQUESTS
    assert verify(copy, "-o", "csv").stdout.splitlines()[0].startswith("DAY,PROJECT,TENANT,")


def test_a_changed_byte_is_named(copy):
    path = copy / "usage.000001"
    data = bytearray(path.read_bytes())
    at = data.index(b'"prompt_tokens":2', data.index(b'"sequence":3,'))
    data[at + 16] = ord("1")
    path.write_bytes(data)
    p = verify(copy)
    assert p.returncode == 1 and "usage.000001" in p.stderr and "after sequence 2" in p.stderr and p.stdout == "", p.stderr


CHANGES = {
    "a bill that engines do not bear out": (lambda b: [*b[:2], b[2].replace(b'"completion_tokens":3', b'"completion_tokens":4'), *b[3:]], "record 3: request req-", "does not add up: engines made 5 tokens, 6 are billed"),
    "a record left out": (lambda b: [*b[:2], *b[3:]], "record 3: record 3 of journal usage-gateway is missing before it"),
    "a record twice": (lambda b: [*b[:2], b[1], *b[2:]], "record 3: record 2 of journal usage-gateway is there twice"),
    "a request twice": (lambda b: [*b, b[0].replace(b'"sequence":1,', b'"sequence":%d,' % (REQUESTS + 1))], f"record {REQUESTS + 1}: request req-", "is counted twice"),
    "a record rewritten with all that follows": (lambda b: [*b[:2], b[2].replace(b'"prompt_tokens":2', b'"prompt_tokens":1').replace(b'"read":2', b'"read":1'), *b[3:]],
                                                 "record 3 of journal usage-gateway is not what the ledger says"),
    "no json": (lambda b: [b"x" * len(b[0]), *b[1:]], "record 1: "),
    "another shape": (lambda b: [b'{"usage":{}}', *b[1:]], "record 1: it does not say which journal it came from"),
    "a count below 0": (lambda b: [b[0].replace(b'"prompt_tokens":2', b'"prompt_tokens":-2'), *b[1:]], "record 1: a usage record with a count that is negative"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_no_chain_shows_is_found(copy, name):
    """Whoever can write the whole ledger anew can give it a good chain."""
    change, *said = CHANGES[name]
    rewrite(copy / "usage.000001", change)
    p = verify(copy)
    assert p.returncode == 1 and all(s in p.stderr for s in said), p.stderr


def test_a_cut_end_is_named(copy):
    path = copy / "usage.000001"
    path.write_bytes(path.read_bytes()[:-3])
    p = verify(copy)
    assert p.returncode == 1 and "no whole record" in p.stderr and f"after sequence {REQUESTS - 1}" in p.stderr, p.stderr


def test_reports_that_do_not_follow(copy):
    reports = json.loads((copy.parent / "reports.json").read_text())
    wrong = copy.parent / "wrong.json"
    cases = [(lambda r: r["status"].update(completionTokens=99), "says completionTokens 99; by the records it is 15"), (lambda r: r["status"]["items"][0].update(promptTokens=1), "has other items"),
             (lambda r: r["spec"].update(date="2020-01-01"), "no record of that day")]
    for change, said in cases:
        doc = json.loads(json.dumps(reports))
        change(doc[0])
        wrong.write_text(json.dumps({"kind": "List", "items": doc}))
        p = verify(copy, "--reports", str(wrong))
        assert p.returncode == 1 and said in p.stderr, p.stderr
    wrong.write_text("nonsense")
    assert verify(copy, "--reports", str(wrong)).returncode == 1


def test_nothing_there(tmp_path):
    p = verify(tmp_path)
    assert p.returncode == 1 and "there is no usage ledger in" in p.stderr
    assert verify(tmp_path, "more", "words").returncode == 2


def test_ledgers_of_earlier_releases(tmp_path):
    """Their records do not tell of engines; all else holds of them."""
    found = 0
    for archive in sorted((ROOT / "tests" / "api" / "stored").glob("*.tar.xz")):
        with lzma.open(archive) as f, tarfile.open(fileobj=f) as tar:
            tar.extractall(tmp_path / archive.stem, filter="data")
        for ledger in pathlib.Path(tmp_path / archive.stem).rglob("usage.000001"):
            p = verify(ledger.parent, "-o", "json")
            assert p.returncode == 0, p.stderr
            doc = json.loads(p.stdout)
            assert doc["records"] >= 1
            found += doc["olderRecords"]
    assert found >= 1
