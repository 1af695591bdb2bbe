"""Judges exported audit events by the schema that OCSF publishes, of the version that events say they are of; and writes ledgers of any records, to export them."""
import functools
import json
import struct

import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from ledger_file import chained, crc32c

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


def write_ledger(directory, bodies):
    """An audit ledger of these records, whole and chained (src/ledger/record.h)."""
    head = b"SEKILEDG" + struct.pack("<II", 1, 3) + b"0123456789ab"
    entries = [(struct.pack("<HH", 1, 0), struct.pack("<q", 1_790_000_000_000 + n), json.dumps(body).encode()) for n, body in enumerate(bodies, 1)]
    directory.mkdir(exist_ok=True)
    (directory / "audit.000001").write_bytes(chained(head + struct.pack("<I", crc32c(head)), entries))
