"""Alert rules: each fires on what it is for and is still otherwise (by promtool), has its texts and a runbook, and asks for metrics that there are."""
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from cloud import CACHE, ROOT

RULES = ROOT / "packaging" / "prometheus" / "seki.rules.yaml"
RUNBOOKS = ROOT / "docs" / "operate" / "runbooks"
ALERTS = {r["alert"]: r for g in yaml.safe_load(RULES.read_text())["groups"] for r in g["rules"]}
PROMTOOL = shutil.which("promtool") or str(CACHE / "prometheus" / "usr" / "bin" / "promtool")

DAY = 86400
C, G = '{job="seki",instance="c"}', '{job="seki",instance="g"}'


def with_labels(name, where, **labels):
    return name + where[:-1] + "".join(f',{k}="{v}"' for k, v in labels.items()) + "}"


def on(where, *series):
    return [(name + where, values) for name, values in series]


DISK = [("seki_data_disk_size_bytes" + C, "1000x90")]
REQUESTS, RECONCILES = "seki_apiserver_requests_total", "seki_controller_reconciles_total"
GATEWAY = "seki_gateway_requests_total"


def api(errors):
    return [(with_labels(REQUESTS, C, verb="get", resource="models", code="200"), "0+1000x90"), (with_labels(REQUESTS, C, verb="get", resource="models", code="503"), f"0+{errors}x90")]


def gateway(errors, outcome="upstream_error", status="502"):
    return [(with_labels(GATEWAY, G, route="chat", status="200", outcome="ok"), "0+1000x90"), (with_labels(GATEWAY, G, route="chat", status=status, outcome=outcome), f"0+{errors}x90")]


def slow(name, where, le_fast, le_slow, share_slow, **labels):
    return [(with_labels(f"{name}_bucket", where, le=le, **labels), f"0+{n}x90") for le, n in ((le_fast, 1000 - share_slow), (le_slow, 1000), ("+Inf", 1000))]


def passes(good, bad):
    return [(with_labels(RECONCILES, C, controller="model", result="ok"), f"0+{good}x90"), (with_labels(RECONCILES, C, controller="model", result="error"), f"0+{bad}x90")]


def state(name, value, states):
    return [(with_labels(name, C, state=s), f"{value if s == states[0] else 0}x90") for s in states]


def level(bad, budget=1000):
    """bad: of a thousand requests a minute."""
    of = {"tenant": "t", "project": "shop", "endpoint": "chat", "objective": "availability"}
    return [(with_labels("seki_gateway_slo_requests_total", G, result="bad", **of), f"0+{bad}x90"), (with_labels("seki_gateway_slo_requests_total", G, result="good", **of), f"0+{1000 - bad}x90"),
            (with_labels("seki_gateway_slo_error_budget_millionths", G, project="shop", endpoint="chat", objective="availability"), f"{budget}x90")]


def money(used, amount=100, owner="acme"):
    of = {"scope": "tenant", "project": "", "owner": owner, "period": "Month", "currency": "EUR"}
    return [(with_labels("seki_budget_used_micros", C, **of), f"{used}x90"), (with_labels("seki_budget_amount_micros", C, **of), f"{amount}x90")]


ENDPOINTS, REPLICAS = "seki_inference_endpoints", "seki_inference_replicas"
# alert: (what makes it fire, what does not, its own labels); an hour is played at one value a minute.
CASES = {
    "SekiNotScraped": ([], on(C, ("up", "0x90")), {}),
    "SekiDown": (on(C, ("up", "1 1 0x90")), on(C, ("up", "1x90")), {"instance": "c", "job": "seki"}),
    "SekiControlNotReady": (on(C, ("seki_control_ready", "0x90")), on(C, ("seki_control_ready", "1x59 0x30")), {}),
    "SekiGatewayNotReady": (on(G, ("seki_gateway_ready", "0x90")), on(G, ("seki_gateway_ready", "1x90")), {}),
    "SekiRestarting": (on(C, ("process_start_time_seconds", "0+600x90")), on(C, ("process_start_time_seconds", "5x55 3300x30")), {}),
    "SekiStoreNotWritable": (on(C, ("seki_store_writable", "0x90")), on(C, ("seki_store_writable", "1x90")), {}),
    "SekiDiskNearlyFull": (DISK + on(C, ("seki_data_disk_free_bytes", "90x90")), DISK + on(C, ("seki_data_disk_free_bytes", "110x90")), {}),
    "SekiDiskFull": (DISK + on(C, ("seki_data_disk_free_bytes", "20x90")), on(C, ("seki_data_disk_size_bytes", "-1x90"), ("seki_data_disk_free_bytes", "-1x90")), {}),
    "SekiBackupOld": (on(C, ("seki_backup_last_success_timestamp_seconds", f"{-31 * 3600}x90")), on(C, ("seki_backup_last_success_timestamp_seconds", f"{-28 * 3600}x90")), {}),
    "SekiClusterBackupOverdue": (on(C, ("seki_clusters_backup_overdue", "1x90")), on(C, ("seki_clusters_backup_overdue", "0x90")), {}),
    "SekiClusterStoreNearlyFull": (on(C, ("seki_clusters_store_nearly_full", "1x90")), on(C, ("seki_clusters_store_nearly_full", "0x90")), {}),
    "SekiClusterDrillFailed": (on(C, ("seki_clusters_drill_failed", "1x90")), on(C, ("seki_clusters_drill_failed", "0x90")), {}),
    "SekiCertificateEndsSoon": ([(with_labels("seki_certificate_end_timestamp_seconds", C, certificate="admin"), f"{20 * DAY}x90")],
                                [(with_labels("seki_certificate_end_timestamp_seconds", C, certificate="admin"), f"{120 * DAY}x90")], {"certificate": "admin"}),
    "SekiCertificateEnds": ([(with_labels("seki_certificate_end_timestamp_seconds", C, certificate="admin"), "0x90")],
                            [(with_labels("seki_certificate_end_timestamp_seconds", C, certificate="admin"), f"{20 * DAY}x90")], {"certificate": "admin"}),
    "SekiEndpointNotReady": (state(ENDPOINTS, 2, ["not-ready", "serving"]), state(ENDPOINTS, 2, ["serving", "not-ready"]), {"state": "not-ready"}),
    "SekiEndpointDegraded": (state(ENDPOINTS, 1, ["degraded", "serving"]), state(ENDPOINTS, 1, ["scaled-to-zero", "degraded"]), {"state": "degraded"}),
    "SekiEngineCrashLoop": (state(REPLICAS, 1, ["crash-looping", "ready"]), state(REPLICAS, 1, ["not-ready", "crash-looping"]), {"state": "crash-looping"}),
    "SekiEnginesRestart": (on(C, ("seki_inference_engine_restarts_total", "0+1x90")), on(C, ("seki_inference_engine_restarts_total", "0x50 3x40")), {}),
    "SekiUsageWaits": (on(G, ("seki_gateway_usage_records_waiting", "7x90")), on(G, ("seki_gateway_usage_records_waiting", "0x58 7x20")), {}),
    "SekiUsageNotCollected": (on(C, ("seki_billing_collected_timestamp_seconds", "0x90")), on(C, ("seki_billing_collected_timestamp_seconds", "0+60x90")), {}),
    "SekiUsageJournalDamaged": (on(C, ("seki_billing_journals_damaged", "1x90")), on(C, ("seki_billing_journals_damaged", "0x90")), {}),
    "SekiUsageDiffers": ([(with_labels("seki_billing_unexplained_tokens_total", C, project="demo", endpoint="chat", type="output"), "_x40 7x40")],
                         [(with_labels("seki_billing_unexplained_tokens_total", C, project="demo", endpoint="chat", type="output"), "7x90")], {"project": "demo", "endpoint": "chat", "instance": "c"}),
    "SekiAuditWaits": (on(C, ("seki_audit_records_waiting", "4x90")), on(C, ("seki_audit_records_waiting", "0x58 4x30")), {}),
    "SekiAuditLost": (on(C, ("seki_audit_records_lost_total", "0x50 3x40")), on(C, ("seki_audit_records_lost_total", "3x90")), {}),
    "SekiSnapshotOld": (on(G, ("seki_gateway_snapshot_age_seconds", "0+60x90")), on(G, ("seki_gateway_snapshot_age_seconds", "3x90")), {}),
    "SekiSnapshotMissing": (on(G, ("seki_gateway_snapshot_age_seconds", "-1x90")), on(G, ("seki_gateway_snapshot_age_seconds", "0x90")), {}),
    "SekiAPIErrors": (api(30), api(10), {}),
    "SekiAPIOverloaded": (on(C, ("seki_apiserver_requests_waiting", "5x90"), ("seki_apiserver_requests_refused_total", "0+9x90")),
                          on(C, ("seki_apiserver_requests_waiting", "5x90"), ("seki_apiserver_requests_refused_total", "9x90")), {}),
    "SekiAPISlow": (slow("seki_apiserver_request_duration_seconds", C, "1", "10", 100, verb="list"), slow("seki_apiserver_request_duration_seconds", C, "1", "10", 1, verb="list"),
                    {"verb": "list"}),
    "SekiReconcileFails": (passes(10, 20), passes(20, 10), {"controller": "model"}),
    "SekiGatewayErrors": (gateway(100), gateway(20), {}),
    "SekiStreamsBreak": (gateway(100, status="200"), gateway(100, status="200", outcome="client_gone"), {}),
    "SekiFirstTokenSlow": (slow("gen_ai_server_time_to_first_token_seconds", G, "10", "60", 100, gen_ai_request_model="m"),
                           slow("gen_ai_server_time_to_first_token_seconds", G, "10", "60", 10, gen_ai_request_model="m"), {"gen_ai_request_model": "m"}),
    "SekiSLOBurnsFast": (level(20), level(3), {"project": "shop", "endpoint": "chat", "objective": "availability"}),
    "SekiSLOBurnsSlowly": (level(4), level(4, 5000), {"project": "shop", "endpoint": "chat", "objective": "availability"}),
    "SekiBudgetNearlyUsed": (money(91), money(89) + money(0, 0, owner="gone"), {"scope": "tenant", "owner": "acme", "period": "Month", "currency": "EUR"}),
    "SekiBreakGlass": (on(C, ("seki_break_glass_active", "0x59 1x30")), on(C, ("seki_break_glass_active", "1x50 0x40")), {}),
    "SekiIssuerUnreachable": (on(C, ("seki_authentication_issuers_unreachable", "1x90")), on(C, ("seki_authentication_issuers_unreachable", "0x50 1x40")), {}),
    "SekiDescriptorsNearlyUsedUp": (on(C, ("process_open_fds", "900x90"), ("process_max_fds", "1000x90")), on(C, ("process_open_fds", "700x90"), ("process_max_fds", "1000x90")), {}),
}


def play(which, path):
    """What fires after an hour of each case, as promtool tells it: it is asked about an alert that cannot be, so that it prints what there is."""
    never = [{"exp_labels": {"never": "true"}}]
    wanted = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [
        {"interval": "1m", "input_series": [{"series": s, "values": v} for s, v in case[which]], "alert_rule_test": [{"eval_time": "1h", "alertname": name, "exp_alerts": never}]}
        for name, case in CASES.items()]}
    path.write_text(json.dumps(wanted))
    p = subprocess.run([PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True, timeout=300)
    said = dict(re.findall(r"alertname: ?(\w+), time: 1h,.*?got:\[(.*?)\]\s*(?=alertname|name|$|\n\s*\n)", p.stdout + p.stderr, re.S))
    assert set(said) == set(CASES), p.stdout + p.stderr
    return said


@pytest.fixture(scope="session")
def played(promtool, tmp_path_factory):
    top = tmp_path_factory.mktemp("rules")
    return [play(which, top / f"{which}.yaml") for which in (0, 1)]


@pytest.fixture(scope="session", autouse=True)
def promtool():
    if not os.path.exists(PROMTOOL):
        subprocess.run([str(ROOT / "scripts" / "promtool")], check=True, capture_output=True, timeout=300)


def test_the_rules_are_rules():
    p = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0, p.stdout + p.stderr


def test_each_alert_has_its_case():
    assert set(CASES) == set(ALERTS)


@pytest.mark.parametrize("name", CASES)
def test_it_fires_and_is_still_otherwise(name, played):
    fires, still = played[0][name], played[1][name]
    assert "Labels:" in fires, "it does not fire"
    for key, value in {"severity": ALERTS[name]["labels"]["severity"], **CASES[name][2]}.items():
        assert f'{key}="{value}"' in fires
    assert "<no value>" not in fires and "error expanding" not in fires.lower() and "error executing" not in fires.lower()
    assert "Labels:" not in still, "it fires without cause"


def test_each_alert_has_texts_and_a_runbook():
    for name, rule in ALERTS.items():
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url"} and all(notes.values()), name
        assert rule["labels"]["severity"] in ("page", "warning"), name
        page = RUNBOOKS / notes["runbook_url"].rsplit("/", 1)[1]
        assert notes["runbook_url"].startswith("file:///usr/share/doc/seki/operate/runbooks/") and page.exists(), name
        assert f"`{name}`" in page.read_text(), f"{page.name} does not name {name}"


def test_each_runbook_has_an_alert_and_is_listed():
    pages = {p.name for p in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert pages == {r["annotations"]["runbook_url"].rsplit("/", 1)[1] for r in ALERTS.values()}
    index = (RUNBOOKS / "README.md").read_text()
    for name in ALERTS:
        assert f"`{name}`" in index, name
    for page in RUNBOOKS.glob("*.md"):
        for named in re.findall(r"`(Seki[A-Z]\w+)`", page.read_text()):
            assert named in ALERTS, f"{page.name}: {named}"


def test_rules_ask_for_metrics_that_there_are():
    """observe.md has all metrics: another test compares it with the program."""
    there = set(re.findall(r"`((?:seki|gen_ai|process)_\w+)`", (ROOT / "docs" / "operate" / "observe.md").read_text()))
    for name, rule in ALERTS.items():
        for metric in re.findall(r"\b((?:seki|gen_ai|process)_[a-z_]+)\b", re.sub(r"\([a-z_, ]*\)", "", rule["expr"])):
            assert re.sub(r"_bucket$", "", metric) in there, (name, metric)
