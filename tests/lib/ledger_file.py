"""Ledgers on the disk, as src/ledger/record.h has them: read apart, and written anew with good checksums and a good chain."""
import hashlib
import struct

FILE_HEAD, HEAD = 32, 60


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


def records(data):
    """Of a file: [(version and flags, time, body)]."""
    at, found = FILE_HEAD, []
    while at < len(data):
        size = struct.unpack_from("<I", data, at)[0]
        found.append((data[at + 8:at + 12], data[at + 20:at + 28], data[at + HEAD:at + HEAD + size]))
        at += HEAD + size
    return found


def chained(head, entries):
    """A file of these (version and flags, time, body)."""
    out, before = head, bytes(32)
    for sequence, (version, time, body) in enumerate(entries, 1):
        rest = version + struct.pack("<Q", sequence) + time + before + body
        record = struct.pack("<II", len(body), crc32c(rest)) + rest
        before = hashlib.sha256(record).digest()
        out += record
    return out
