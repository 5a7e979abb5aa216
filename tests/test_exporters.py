"""The exporters as users run them, and at the true sizes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from export_sources import NO_TORCH, NO_TRANSFORMERS, SCRIPTS, Exporting, export  # noqa: E402

if not NO_TORCH:
    import export_clip
    import export_hubert


@unittest.skipIf(NO_TORCH, NO_TORCH)
class CommandLine(unittest.TestCase):
    """As users run it."""

    def run_script(self, name: str, *arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, SCRIPTS / name, *map(str, arguments)], capture_output=True, text=True)

    def test_an_error_is_one_line_and_status_2(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("export_hubert.py", "export_clip.py"):
                for arguments, part in (
                    (["--source", f"{folder}/absent", "--out", f"{folder}/out.pt"], "no such file"),
                    (["--random", "--out", f"{folder}/out.pt"], "needs --config"),
                    (["--random", "--config", "tiny", "--out", folder], "is a folder"),
                    (["--random", "--config", "tiny", "--out", f"{__file__}/out.pt"], "cannot be made"),
                ):
                    done = self.run_script(name, *arguments)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                    self.assertTrue(done.stderr.startswith("error: "), done.stderr)
                    self.assertIn(part, done.stderr)

    def test_it_says_what_it_does(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            done = self.run_script("export_hubert.py", "--random", "--config", "tiny", "--out", f"{folder}/new/encoder.pt")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            for part in ("random weights", "62,256 parameters", "padded in a batch with alone", "with the module: equal"):
                self.assertIn(part, done.stdout)
            self.assertIn(f"wrote {folder}/new/encoder.pt", done.stdout.splitlines()[-1])


@unittest.skipIf(NO_TORCH or NO_TRANSFORMERS, NO_TORCH or NO_TRANSFORMERS)
@unittest.skipUnless(os.environ.get("CMD_TEST_TRUE_SIZE"), "needs 3.5 GB of memory and minutes: set CMD_TEST_TRUE_SIZE=1")
class TrueSize(Exporting):
    """HuBERT-Large, CLIP's ViT-L/14 and SigLIP's ViT-B/16 with random weights against transformers' own classes."""

    def test_the_largest_difference_is_small(self) -> None:
        for script, config in ((export_hubert, "large"), (export_clip, "large"), (export_clip, "siglip-base")):
            for dtype in ("f32", "bf16"):
                printed = export(script, "--random", "--config", config, "--dtype", dtype, "--out", self.out)
                print(f"\n{script.__name__}.py --random --config {config} --dtype {dtype}\n{printed}")
                found = re.findall(r"f32 with transformers.*max difference (\S+)", printed)
                self.assertEqual(len(found), 6 if script is export_hubert else 2)
                self.assertLess(max(map(float, found)), 1e-4)


class WithoutTorch(unittest.TestCase):
    def test_a_missing_torch_is_one_line(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "torch.py").write_text("raise ImportError('no torch here')\n")
            environment = {**os.environ, "PYTHONPATH": folder}
            done = subprocess.run([sys.executable, SCRIPTS / "export_clip.py"], capture_output=True, text=True, env=environment)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn("pip install -r scripts/export_requirements.txt", done.stderr)


if __name__ == "__main__":
    unittest.main()
