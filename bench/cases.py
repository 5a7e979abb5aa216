"""What is compared, and what each comparison should reach."""

from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRUE_SIZE = ROOT / "data/true_size"


@dataclass(frozen=True)
class Program:
    """`cmd train`."""

    image_cache: str = "none"
    speech_cache: str = "none"
    processes: int = 1
    threads: int | None = None  # of each process; by default those of the comparison

    @property
    def uses_disk(self) -> bool:
        return "disk" in (self.image_cache, self.speech_cache)

    @property
    def label(self) -> str:
        return "cmd" if self.processes == 1 else f"cmd, {self.processes} processes"


@dataclass(frozen=True)
class PyTorch:
    """`bench/pytorch_loop.py`; in memory are no features, those of the images, or all."""

    memory: str = "none"

    @property
    def label(self) -> str:
        kept = {"none": "", "image": ", image features in memory", "all": ", all features in memory"}
        return "PyTorch" + kept[self.memory]


@dataclass(frozen=True)
class Rival:
    """What the program is compared with, and how many times as fast it should be."""

    side: Program | PyTorch
    bar: float


@dataclass(frozen=True)
class Limit:
    """The frozen forwards alone; a step should take at most `bar` times as long, where there is a bar."""

    images: bool
    bar: float | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work, done by the program and its rivals."""

    config: Path
    ours: Program
    rivals: tuple[Rival, ...]
    steps: int
    quick_steps: int
    needs: tuple[Path, ...]
    made_by: str
    limit: Limit | None = None
    overrides: dict[str, object] = field(default_factory=dict)
    # Whether reading counts: then steps that are not timed follow, so that the loaders have work until the end.
    reads: bool = True
    # Whether it is run where no case is named.
    by_default: bool = True


def true_size(dtype: str, by_default: bool = True) -> Case:
    """HuBERT-Large and CLIP ViT-L/14, random weights."""
    encoders = {name: TRUE_SIZE / f"{name}_large_{dtype}.pt" for name in ("speech", "image")}
    return Case(
        config=ROOT / "configs/flickr8k.toml",
        needs=(TRUE_SIZE / "flickr8k/flickr_audio/wav2capt.txt", *encoders.values()),
        made_by=f"scripts/true_size --dtype {dtype}",
        ours=Program(image_cache="disk"),
        rivals=(Rival(PyTorch(), 2.0), Rival(PyTorch(memory="image"), 1.05)),
        limit=Limit(images=False, bar=1.03),
        steps=8,
        quick_steps=2,
        reads=False,
        overrides={
            "data.root": TRUE_SIZE / "flickr8k",
            "train.batch_size": 8,
            **{f"encoders.{name}.path": path for name, path in encoders.items()},
            **{f"encoders.{name}.batch_size": 8 for name in encoders},
        },
        by_default=by_default,
    )


DEMO = {"config": ROOT / "configs/demo.toml", "needs": (ROOT / "data/demo/manifest.jsonl",), "made_by": "scripts/demo"}

CASES = {
    # Nothing is kept on either side.
    "demo": Case(
        **DEMO, ours=Program(), rivals=(Rival(PyTorch(), 2.2),), limit=Limit(images=True), steps=30, quick_steps=3
    ),
    "true-size": true_size("bf16"),
    # For processors that compute in bf16 no faster than in f32, or slower.
    "true-size-f32": true_size("f32", by_default=False),
    # All features in memory on both sides: what is left is the trained part.
    "all-cached": Case(
        **DEMO,
        ours=Program(image_cache="memory", speech_cache="memory"),
        rivals=(Rival(PyTorch(memory="all"), 10),),
        steps=100,
        quick_steps=10,
        reads=False,
    ),
    # The same batch in two processes of one thread each and in one.
    "processes": Case(
        **DEMO,
        ours=Program(processes=2, threads=1),
        rivals=(Rival(Program(threads=1), 1.7),),
        steps=30,
        quick_steps=3,
    ),
}

BY_DEFAULT = [name for name, case in CASES.items() if case.by_default]
