#!/usr/bin/env python3
"""An image of one layer, as an archive that containerd imports: image.py ROOT NAME OUT ENTRYPOINT... [-- COMMAND...]
The same files give the same bytes: no times, no owners."""
import hashlib
import io
import json
import os
import sys
import tarfile

root, name, out, *entrypoint = sys.argv[1:]
command = []
if "--" in entrypoint:
    at = entrypoint.index("--")
    entrypoint, command = entrypoint[:at], entrypoint[at + 1:]


def plain(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    if not info.issym():
        info.mode = 0o1777 if info.name == "tmp" else info.mode & 0o4000 | 0o755
    return info


def layer():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for directory, folders, files in os.walk(root):
            folders.sort()
            for entry in sorted(folders + files):
                path = os.path.join(directory, entry)
                tar.add(path, os.path.relpath(path, root), recursive=False, filter=plain)
    return data.getvalue()


content = layer()
config = json.dumps({
    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine), "os": "linux",
    "config": {"Entrypoint": entrypoint, **({"Cmd": command} if command else {}), "Env": ["PATH=/bin:/usr/bin"], "WorkingDir": "/"},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]},
    "history": [{"created_by": "image.py"}]}, sort_keys=True).encode()
digest = hashlib.sha256(config).hexdigest()
manifest = json.dumps([{"Config": digest + ".json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
    for entry, data in ((digest + ".json", config), ("layer.tar", content), ("manifest.json", manifest)):
        info = tarfile.TarInfo(entry)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
