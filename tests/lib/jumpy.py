"""A Cloud whose wall clock tests move."""
import subprocess

from cloud import ROOT, Cloud


class Jumpy(Cloud):
    """Its wall clock is moved by a file, `jump`, in seconds; its monotonic one is not, nor are those of the programs that it runs."""

    def command(self, role=None):
        library = self.dir / "clock_jump.so"
        if not library.exists():
            subprocess.run(["cc", "-D_GNU_SOURCE", "-shared", "-fPIC", "-O1", "-o", library, ROOT / "tests/lib/clock_jump.c"], check=True)
        self.jump = self.dir / "jump"
        self.jump.write_text("0\n")
        return ["env", f"LD_PRELOAD={library}", f"CLOCK_JUMP={self.jump}", "ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:exitcode=99", *super().command(role)]
