"""Judges exported audit events by the schema that OCSF publishes, of the version that events say they are of; and writes ledgers of any records, to export them."""
import functools
import hashlib
import json
import struct

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

VERSION = "1.5.0"


@functools.cache
def validator():
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=VERSION)).get_class_schema(class_name="api_activity", profiles=["cloud"])
    return jsonschema.validators.validator_for(schema)(schema)


def judge(events):
    """Fails, naming each sort of fault once, unless all are valid. Returns the types of the records that they were made of."""
    bad, events = {}, list(events)
    for e in events:
        assert e["metadata"]["version"] == VERSION
        for error in validator().iter_errors(e):
            bad.setdefault((e["unmapped"]["type"], error.json_path, error.message[:200]), e)
    assert not bad, "\n".join(f"{what}: {json.dumps(e)[:1500]}" for what, e in list(bad.items())[:5])
    return {e["unmapped"]["type"] for e in events}


def crc32c(data):
    c = 0xFFFFFFFF
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = c >> 1 ^ (0x82F63B78 if c & 1 else 0)
    return c ^ 0xFFFFFFFF


def write_ledger(directory, bodies):
    """An audit ledger of these records, whole and chained (src/ledger/record.h)."""
    head = b"SEKILEDG" + struct.pack("<II", 1, 3) + b"0123456789ab"
    out, before = head + struct.pack("<I", crc32c(head)), bytes(32)
    for sequence, body in enumerate(bodies, 1):
        text = json.dumps(body).encode()
        rest = struct.pack("<HHQq", 1, 0, sequence, 1_790_000_000_000 + sequence) + before + text
        record = struct.pack("<II", len(text), crc32c(rest)) + rest
        before = hashlib.sha256(record).digest()
        out += record
    directory.mkdir(exist_ok=True)
    (directory / "audit.000001").write_bytes(out)
