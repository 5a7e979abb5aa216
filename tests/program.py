"""The program as it was built."""

import subprocess
from pathlib import Path

CMD = Path(__file__).resolve().parents[1] / "target/release/cmd"


def cmd(folder: Path, *arguments: str) -> str:
    """What `cmd ARGUMENTS` prints in that folder."""
    return subprocess.run([CMD, "--quiet", *arguments], cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
