"""scripts/install: the program runs from where it was put without what it was built from, has its manual, and leaves nothing behind."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Install(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.prefix = self.folder / "a prefix"

    def install(self, *arguments: str, status: int = 0) -> str:
        command = [ROOT / "scripts/install", "--prefix", self.prefix.name, *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def test_it_runs_by_its_own_libraries_and_leaves_nothing(self) -> None:
        self.assertIn("installed in", self.install())
        # Twice is as once.
        self.install()
        cmd = self.prefix / "bin/cmd"
        libraries = subprocess.run(["ldd", cmd], check=True, stdout=subprocess.PIPE, text=True).stdout
        torch = next(line for line in libraries.splitlines() if "libtorch_cpu" in line)
        self.assertIn(str(self.prefix.resolve()), os.path.realpath(torch.split("=> ")[1].split(" (")[0]))
        self.assertNotIn(str(ROOT), libraries)
        said = subprocess.run([cmd, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
        self.assertRegex(said, r"^cmd \d")
        subprocess.run([cmd, "doctor", "--help"], check=True, stdout=subprocess.DEVNULL)
        for name in ("cmd", "cmd-train", "cmd-search-index", "cmd-serve"):
            page = self.prefix / f"share/man/man1/{name}.1"
            self.assertRegex(page.read_text(), r"\.TH ")
            if shutil.which("man"):
                shown = subprocess.run(["man", "-l", page], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                self.assertIn("OPTIONS", shown.stdout)
        completions = self.prefix / "share/bash-completion/completions/cmd"
        self.assertIn("serve", completions.read_text())
        # What somebody else put there stays.
        (self.prefix / "bin/other").write_text("")
        self.install("--uninstall")
        left = [path for path in self.prefix.rglob("*") if not path.is_dir()]
        self.assertEqual(left, [self.prefix / "bin/other"])
        self.assertFalse((self.prefix / "lib/cmd").exists())
        self.assertIn("nothing was installed", self.install("--uninstall", status=2))

    def test_what_is_wrong_is_said(self) -> None:
        self.assertIn("unknown option --here", self.install("--here", status=2))


if __name__ == "__main__":
    unittest.main()
