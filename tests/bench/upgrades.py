#!/usr/bin/env python3
"""How long an upgrade of a Cluster of one replica takes, and for how long nothing can be written meanwhile.

usage: upgrades.py [UPGRADES]      SEKI_BUILD=build/release   SEKI_KUBERNETES=DIR
Prints, for each, milliseconds of its stages and the two longest times from one write that was taken to the next, in seconds: those of the store's and of the API server's stage.
Programs of the previous minor but etcd that have not been built are replaced by the newest's: what is waited for is the same.
"""
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lib"))

import kube  # noqa: E402
from cloud import wait_for  # noqa: E402
from writer import Writer  # noqa: E402


def one(cloud, n):
    c = kube.Cluster.ready(cloud, "demo", f"bench-{n}", {"version": kube.OLDER, "backup": {"intervalSeconds": 0}})
    c.kubectl("create", "configmap", "written")
    writer = Writer(c)
    wait_for(lambda: writer.taken > 20, what="writes")
    writer.forget()
    cloud.seki("-n", "demo", "cluster", "upgrade", c.name, "--version", kube.MINOR, "--timeout", "300s")
    longest = sorted(writer.gaps)[-2:]
    writer.end()
    upgrade = c.get()["status"]["upgrade"]
    print({s["name"]: s["milliseconds"] for s in upgrade["stages"]}, "all", upgrade["milliseconds"], "ms; no write for", " and ".join(f"{g:.2f}" for g in reversed(longest)), "s", flush=True)
    c.delete()


def main():
    with tempfile.TemporaryDirectory(prefix="seki-programs-") as d:
        folder, real = kube.two_minors(pathlib.Path(d), standin_store=True)
        print(f"from {kube.OLDER} to {kube.MINOR}{'' if real else ', of which the older is not real'}")
        with kube.cloud(folder) as cloud:
            for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
                one(cloud, n)


main()
