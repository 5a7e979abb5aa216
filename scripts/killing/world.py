"""A tiny data set of the kind manifest, and a configuration for it."""

import json
import math
import struct
import wave
import zlib
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES, STEPS, BATCH = 8, 150, 6
CONFIG = """\
[data]
path = "data/manifest.jsonl"
[encoders]
speech.path = {speech}
image.path = {image}
text.path = {text}
[speech]
heads = 2
[optim]
lr = 1e-2
warmup_steps = 3
[train]
steps = {steps}
batch_size = {batch}
checkpoint_every = 3
eval_every = 6
keep = 2
[log]
every = 1
"""


def write_png(path: Path, number: int) -> None:
    """A chequered picture of 40 x 36."""
    colours = bytes(number * factor % 256 for factor in (37, 91, 53)), bytes((20, 200, 90))
    rows = (b"".join(colours[(x // 8 + y // 8) % (2 + number % 3) > 0] for x in range(40)) for y in range(36))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 40, 36, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    )
    data = (struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))


def write_wav(path: Path, number: int, caption: int) -> None:
    """A tone of a fifth of a second or more."""
    loudness, pitch = 13_000 * (1 + caption) / 3, 0.02 + 0.013 * number
    samples = array("h", (int(loudness * math.sin(n * pitch)) for n in range(3000 + 700 * caption + 250 * number)))
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(16_000)
        out.writeframes(samples.tobytes())


def make_world(folder: Path) -> None:
    """A data set of the kind manifest and a configuration for it."""
    (folder / "data").mkdir(parents=True)
    lines = []
    for split in ("train", "val", "test"):
        for number in range(IMAGES):
            name = f"{split} {number}"
            write_png(folder / f"data/{name}.png", number)
            captions = []
            for caption in range(2 if number % 4 == 0 else 3):
                write_wav(folder / f"data/{name} {caption}.wav", number, caption)
                text = f"caption {caption} of {name}"
                captions.append({"audio": f"{name} {caption}.wav", "text": text, "speaker": "s"})
            family = f"{split} {number // 3}"
            lines.append(json.dumps({"image": f"{name}.png", "split": split, "family": family, "captions": captions}))
    (folder / "data/manifest.jsonl").write_text("\n".join(lines) + "\n")
    encoders = {name: json.dumps(str(ROOT / f"tests/fixtures/{name}.pt")) for name in ("speech", "image", "text")}
    (folder / "tiny.toml").write_text(CONFIG.format(steps=STEPS, batch=BATCH, **encoders))
