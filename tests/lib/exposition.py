"""A strict reader of Prometheus' text exposition 0.0.4, and of what its conventions ask for: a wrong line, a family in two places, a counter without _total is an AssertionError."""
import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf'({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)\}})? (\S+)\Z')
UNITS = ("_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_percent")


def number(text):
    assert re.fullmatch(r"[+-]?(\d+(\.\d*)?([eE][+-]?\d+)?|Inf)|NaN", text), text
    return float(text)


def parse(text):
    """{(sample name, ((label, value), …)): number}"""
    assert text.endswith("\n") and "\r" not in text
    types, helps, samples, current, seen = {}, {}, {}, None, set()
    for line in text.splitlines():
        assert line == line.strip() and line
        if line.startswith("# "):
            kind, name, rest = re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.+)", line).groups()
            if kind == "HELP":
                assert name not in helps and name not in seen, f"{name}: in two places"
                helps[name], current = rest, name
            else:
                assert name == current and rest in ("counter", "gauge", "histogram", "summary", "untyped") and name not in types, line
                types[name] = rest
                seen.add(name)
            continue
        m = SAMPLE.match(line)
        assert m, f"no sample: {line}"
        name, labels, value = m[1], tuple(sorted((k, v) for k, v in re.findall(LABEL, m[2] or ""))), number(m[m.re.groups])
        assert len({k for k, _ in labels}) == len(labels), f"a label twice: {line}"
        family = re.sub(r"_(bucket|sum|count)$", "", name) if types.get(current) == "histogram" else name
        assert family == current, f"{name} does not follow its TYPE line"
        assert (name, labels) not in samples, f"twice: {line}"
        samples[name, labels] = value
    for name, kind in types.items():
        check_family(name, kind, helps[name], samples)
    return samples


def check_family(name, kind, help_text, samples):
    assert help_text and not name.startswith("_") and "__" not in name
    assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
    assert not name.removesuffix("_total").endswith(UNITS), f"{name}: base units only"
    if kind == "counter":
        assert all(v >= 0 for (n, _), v in samples.items() if n == name)
    if kind != "histogram":
        return
    series = {}
    for (n, labels), value in samples.items():
        if n.startswith(name + "_") and n.removeprefix(name) in ("_bucket", "_sum", "_count"):
            key = tuple(l for l in labels if l[0] != "le")
            part = series.setdefault(key, {"_bucket": []})
            if n.endswith("_bucket"):
                part["_bucket"].append((math.inf if dict(labels)["le"] == "+Inf" else float(dict(labels)["le"]), value))
            else:
                part[n.removeprefix(name)] = value
    for key, part in series.items():
        bounds, counts = [b for b, _ in part["_bucket"]], [v for _, v in part["_bucket"]]
        assert bounds == sorted(set(bounds)) and bounds[-1] == math.inf and counts == sorted(counts), f"{name} {key}"
        assert counts[-1] == part["_count"] and part["_sum"] >= 0, f"{name} {key}"
