"""The images that upstream's suite names, made here under those names, as no registry can be asked.

agnhost, the sample API server and the one that looks at privileges are built from upstream's Go sources (make kubernetes-full). Around them is Debian's userland instead of Alpine's: busybox, and of
tools that tests call those of this machine with their libraries. The shell is bash: Debian's busybox has its own tools go before those of the path, and drops variables with a - in their name. At the places of httpd and nginx is busybox' web server, as of them tests take no more than a page.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import kube
from cloud import ROOT

BUILT = kube.BUILT / kube.MINOR
TOOLS = ["dig", "getent", "curl", "nc.openbsd", "socat", "ip"]
USERS = "root:x:0:0:root:/:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n"
GROUPS = "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"


def make(root, name, folder, *entry):
    out = folder / (re.sub(r"[^a-z0-9.]+", "-", name) + ".tar")
    subprocess.run([sys.executable, ROOT / "tools" / "kubernetes" / "image.py", root, name, out, *entry], check=True)


def take(root, tool):
    """A program of this machine, with its libraries."""
    program = pathlib.Path(shutil.which(tool) or sys.exit(f"the images take {tool}: apt-get install bind9-dnsutils curl netcat-openbsd socat iproute2")).resolve()
    name = root / "bin" / tool.split(".")[0]
    name.unlink(missing_ok=True)
    shutil.copy(program, name)
    for library in re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout):
        there = root / library.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(library).resolve(), there)


def userland(root):
    busybox = shutil.which("busybox")
    for d in ("bin", "tmp", "etc", "uploads"):
        (root / d).mkdir()
    shutil.copy(busybox, root / "bin" / "busybox")
    for tool in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if tool != "busybox":
            (root / "bin" / tool).symlink_to("busybox")
    take(root, "bash")
    (root / "bin" / "sh").unlink()
    (root / "bin" / "sh").symlink_to("bash")
    (root / "etc" / "passwd").write_text(USERS)
    (root / "etc" / "group").write_text(GROUPS)


def make_all(folder):
    """Puts them beside the images that are there, in the folder for --kubernetes-dir."""
    listed = subprocess.run([BUILT / "e2e.test", "--list-images"], capture_output=True, text=True, check=True).stdout.split()
    images = folder / kube.MINOR / "images"
    there = images.resolve()
    images.unlink()
    images.mkdir()
    for p in there.glob("*.tar"):
        shutil.copy(p, images)  # a node sees this folder alone

    def under(part):
        return [i for i in listed if part in i]

    with tempfile.TemporaryDirectory() as work:
        root = pathlib.Path(work)
        userland(root)
        for i in under("/busybox:"):
            make(root, i, images, "/bin/sh")
        for program, page in (("httpd", "usr/local/apache2/htdocs"), ("nginx", "usr/share/nginx/html")):
            (root / page).mkdir(parents=True)
            (root / page / "index.html").write_text("<html><body><h1>It works!</h1></body></html>\n")
            for i in under(f"/{program}:"):
                make(root, i, images, "/bin/httpd", "-f", "-p", "80", "-h", f"/{page}")
            shutil.rmtree(root / "usr")
        shutil.copy((BUILT / "nonewprivs").resolve(), root / "bin" / "nnp")
        (root / "bin" / "nnp").chmod(0o4755)
        for i in under("/nonewprivs:"):
            make(root, i, images, "/bin/nnp")
        (root / "bin" / "nnp").unlink()
        shutil.copy((BUILT / "sample-apiserver").resolve(), root / "sample-apiserver")
        for i in under("/sample-apiserver:"):
            make(root, i, images, "/sample-apiserver")
        (root / "sample-apiserver").unlink()
        (root / "usr" / "local" / "bin").mkdir(parents=True)
        shutil.copy((BUILT / "etcd").resolve(), root / "usr" / "local" / "bin" / "etcd")
        for i in under("k8s.io/etcd:"):
            make(root, i, images, "/usr/local/bin/etcd")
        shutil.rmtree(root / "usr")
        for tool in TOOLS:
            take(root, tool)
        shutil.copy((BUILT / "agnhost").resolve(), root / "agnhost")
        (root / "agnhost-2").symlink_to("agnhost")
        for part in ("crt", "key"):
            shutil.copyfile(kube.module() / "test" / "images" / "agnhost" / "porter" / f"localhost.{part}", root / f"localhost.{part}")
        for i in under("/agnhost:2."):
            if "authenticated" not in i:
                make(root, i, images, "/agnhost", "--", "pause")
        for i in under("/glibc-dns-testing:"):
            make(root, i, images, "/bin/sh")
        for animal in ("nautilus", "kitten"):
            (root / "data.json").write_text(f'{{"image": "{animal}.jpg"}}\n')
            (root / f"{animal}.jpg").write_bytes(b"no picture")
            for i in under(f"/{animal}:"):
                make(root, i, images, "/agnhost", "--", "test-webserver")
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["gcc", "-O2", "-static", "-s", "-o", f"{work}/pause", ROOT / "tools" / "kubernetes" / "pause.c"], check=True)
        for i in under("k8s.io/pause:"):
            make(pathlib.Path(work), i, images, "/pause")
