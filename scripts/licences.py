#!/usr/bin/env python3
"""Checks that every crate the program is built from has a licence that allows its use here; prints them by licence.

    .venv-export/bin/python scripts/licences.py        (after scripts/setup --exporters)
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys

try:
    from license_expression import ExpressionError, LicenseExpression, Licensing
except ImportError:
    sys.exit("scripts/licences.py: no license-expression: run scripts/setup --exporters, then this with .venv-export/bin/python")

SPDX = Licensing()
ALLOWED = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT-0",
    "Unicode-3.0", "Unlicense", "Zlib", "0BSD",
    # libjpeg's own: free use, with a word of thanks to the Independent JPEG Group in documentation that goes with binaries.
    "IJG",
    # Changes to the crate's own files must be published; none are made.
    "MPL-2.0",
}


def allowed(tree: LicenseExpression) -> bool:
    """OR needs one side that is allowed, AND all; a licence WITH an exception is on the list as a whole."""
    if isinstance(tree, SPDX.OR):
        return any(map(allowed, tree.args))
    if isinstance(tree, SPDX.AND):
        return all(map(allowed, tree.args))
    return str(tree) in ALLOWED


def refusal(expression: str | None) -> str | None:
    """Why a crate with this SPDX expression may not be used, if it may not. "/" is an old spelling of OR."""
    if not expression or expression.isspace():
        return "no licence"
    try:
        tree = SPDX.parse(expression.replace("/", " OR "), simple=True)
    except (ExpressionError, IndexError):  # IndexError: what the parser says to ().
        return f"{expression} (not an SPDX expression)"
    return None if allowed(tree) else expression


def main() -> None:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    by_licence = collections.Counter(package["license"] or "none" for package in packages)
    for licence, count in by_licence.most_common():
        print(f"{count:4} {licence}")
    reasons = [(package, refusal(package["license"])) for package in packages]
    refused = [f"{package['name']} {package['version']}: {reason}" for package, reason in reasons if reason]
    if refused:
        sys.exit("licences that are not on the list of scripts/licences.py:\n" + "\n".join(refused))


if __name__ == "__main__":
    main()
