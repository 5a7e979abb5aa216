"""Which licences of crates are allowed: SPDX expressions as Cargo.toml holds them."""

import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from licences import refusal  # noqa: E402


class Licences(unittest.TestCase):
    def test_one_side_of_or_and_all_of_and(self) -> None:
        for expression in (
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0-only OR MIT",
            "(MIT OR GPL-3.0-only) AND Unicode-3.0",
            # AND binds more strongly than OR.
            "MIT OR GPL-3.0-only AND Unicode-3.0",
        ):
            self.assertIsNone(refusal(expression), expression)
        for expression in ("GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT AND (GPL-3.0-only OR GPL-2.0-only)", "LicenseRef-MIT"):
            self.assertEqual(refusal(expression), expression)

    def test_an_exception_counts_with_its_licence(self) -> None:
        for expression in ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only"):
            self.assertIsNone(refusal(expression), expression)
        for expression in ("MIT WITH LLVM-exception", "GPL-2.0-only WITH Classpath-exception-2.0"):
            self.assertEqual(refusal(expression), expression)

    def test_no_licence(self) -> None:
        for expression in (None, "", " "):
            self.assertEqual(refusal(expression), "no licence")

    def test_what_cannot_be_parsed_is_shown(self) -> None:
        for expression in ("MIT OR", "(MIT", "MIT Apache-2.0", "MIT AND OR Zlib", "MIT WITH", "see LICENSE", "()", "AND"):
            self.assertEqual(refusal(expression), f"{expression} (not an SPDX expression)")


if __name__ == "__main__":
    unittest.main()
