#!/usr/bin/env python3
"""Checks that every crate the program is built from has a licence that allows its use here; prints them by licence."""

import collections
import json
import subprocess
import sys

ALLOWED = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT-0",
    "Unicode-3.0", "Unlicense", "Zlib", "0BSD",
    # libjpeg's own: free use, with a word of thanks to the Independent JPEG Group in documentation that goes with binaries.
    "IJG",
    # Changes to the crate's own files must be published; none are made.
    "MPL-2.0",
}


def allowed(expression: str) -> bool:
    """SPDX expressions with AND below OR; "/" is an old spelling of OR."""
    text = expression.replace("/", " OR ").replace("(", " ").replace(")", " ")
    if "AND" in text:
        return all(any(part.strip() in ALLOWED for part in side.split(" OR ")) for side in text.split(" AND "))
    return any(part.strip() in ALLOWED for part in text.split(" OR "))


def main() -> None:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]
    packages = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["packages"]
    by_licence = collections.Counter(package["license"] or "none" for package in packages)
    for licence, count in by_licence.most_common():
        print(f"{count:4} {licence}")
    refused = [f"{package['name']} {package['version']}: {package['license']}" for package in packages if not allowed(package["license"] or "none")]
    if refused:
        sys.exit("licences that are not on the list of scripts/licences.py:\n" + "\n".join(refused))


if __name__ == "__main__":
    main()
