"""The benchmark reads what the program prints."""

import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

from program import cmd  # noqa: E402
from sides import parse  # noqa: E402


class Bench(unittest.TestCase):
    def test_a_printed_configuration_is_read(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = ROOT / "configs/demo.toml"
            printed = cmd(Path(folder), "train", "--config", config, "--set", "optim.lr=1e-3", "--print-config")
        values = parse(printed)
        self.assertEqual(values["encoders.speech.path"], str(ROOT / "assets/demo/speech_encoder.pt"))
        self.assertEqual([values[key] for key in ("optim.lr", "optim.betas", "train.mix", "train.seed")], [1e-3, [0.9, 0.999], [], 0])
        self.assertEqual(values["speech.head"], "parallel")


if __name__ == "__main__":
    unittest.main()
