"""De-identified copies: CT images through profiles, in processor seconds, beside reading and writing them with pydicom.

One process, files from the page cache, copies into memory (/dev/shm) where there is some. The large object's pixels are
a hole in its file; what it costs in memory is that of a process of its own.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from dicomflow import samples
from dicomflow.deidentify.copying import Written, deidentify
from dicomflow.deidentify.profile import Profile, load_profile
from dicomflow.deidentify.settings import ProfileSettings
from machine import describe
from report import replace_section

FILES: Final = 100
SIDE: Final = 512
FULL_ELEMENTS: Final = 224
LARGE_BYTES: Final = 2 << 30
SECRET: Final = "a secret of a bench, long enough to be one"
PROFILES: Final = {
    "basic": ProfileSettings(),
    "shifted dates, descriptors, safe private": ProfileSettings.model_validate(
        {"options": ["shift_dates", "clean_descriptors", "retain_safe_private", "retain_patient_characteristics"]}
    ),
}


def main() -> int:
    """Run the comparison, print it, and with `--write` put it into docs/performance.md."""
    parser = argparse.ArgumentParser(prog="scripts/bench deidentify", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory if memory.is_dir() else None) as base:
        headers = {"small": _write(Path(base) / "small", _plain), "full": _write(Path(base) / "full", _full)}
        for _ in range(arguments.rounds):
            for header, paths in headers.items():
                for name, copy in _ways().items():
                    rates.setdefault((header, name), []).append(_rate(copy, paths, Path(base) / "copy.dcm"))
        elements = {header: _elements(paths[0]) for header, paths in headers.items()}
    text = _report(rates, elements, arguments.rounds, *_large())
    print(text)
    if arguments.write:
        replace_section(Path("docs/performance.md"), "deidentify", text)
    return 0


def _write(folder: Path, change: Callable[[Dataset], None]) -> tuple[Path, ...]:
    images = list(samples.ct_study(1, series=1, slices=FILES, side=SIDE))
    for image in images:
        change(image)
    return samples.write(iter(images), folder)


def _plain(image: Dataset) -> None:
    """Leave the header as it is."""
    image.AcquisitionTime = "103000"


def _full(image: Dataset) -> None:
    """Give an image the header of a scanner: six private blocks, nested codes, and numbers without end."""
    for number in range(6):
        block = image.private_block(0x0019 + 2 * number, f"MAKER {number}", create=True)
        for element in range(20):
            block.add_new(element, "DS", f"{number}.{element}")
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "10200004", "SCT", "Liver"
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator, modifier.CodeMeaning = "24028007", "SCT", "Right"
    code.AnatomicRegionModifierSequence = Items([modifier])
    image.AnatomicRegionSequence = Items([code])
    for tag in (0x00180050, 0x00180060, 0x00180088, 0x00180090, 0x00181100, 0x00181110, 0x00181111, 0x00181120):
        image.add_new(tag, "DS", "120")
    left = FULL_ELEMENTS - _count(image)
    for element in range(0, 2 * left, 2):
        image.add_new(0x00189300 + element, "FD", 1.0) if element < 0x20 else image.add_new(
            0x00202000 + element, "LO", f"text {element}"
        )


def _count(data_set: Dataset) -> int:
    return sum(1 for _ in data_set.iterall())


def _elements(path: Path) -> int:
    return _count(pydicom.dcmread(path))


def _ways() -> dict[str, Callable[[Path, Path], bool]]:
    def ours(bound: Profile) -> Callable[[Path, Path], bool]:
        return lambda source, target: isinstance(deidentify(source, target, bound), Written)

    def pydicoms(source: Path, target: Path) -> bool:
        pydicom.dcmread(source).save_as(target)
        return True

    bound = {
        name: ours(load_profile("bench", {"bench": settings}, secret=SECRET, domain="bench"))
        for name, settings in PROFILES.items()
    }
    return {**bound, "pydicom, read and written alone": pydicoms}


def _rate(copy: Callable[[Path, Path], bool], paths: Sequence[Path], target: Path) -> float:
    """Return the files that a processor second makes; what is loaded once is loaded before."""
    assert copy(paths[0], target)
    target.unlink()
    started = time.process_time()
    for path in paths:
        assert copy(path, target)
        target.unlink()
    return len(paths) / (time.process_time() - started)


def _large() -> tuple[float, float]:
    """Return the seconds of a processor and the megabytes of memory, at most, that a copy of the large object takes."""
    script = (
        "import resource, sys, time; from pathlib import Path; from dicomflow.deidentify.copying import deidentify;"
        "from dicomflow.deidentify.profile import load_profile;"
        f"p = load_profile('basic', {{}}, secret={SECRET!r}, domain='bench'); t = time.process_time();"
        "deidentify(Path(sys.argv[1]), Path(sys.argv[2]), p).sha256;"
        "print(time.process_time() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as base:
        image = next(samples.ct_study(1, series=1, slices=1, side=SIDE))
        image.NumberOfFrames = LARGE_BYTES // (2 * SIDE * SIDE)
        image.PixelData = b""
        (source,) = samples.write(iter([image]), Path(base))
        head = source.read_bytes()[:-4]
        source.write_bytes(head + (LARGE_BYTES - 2 * SIDE * SIDE).to_bytes(4, "little"))
        with source.open("r+b") as file:
            file.truncate(len(head) + 4 + LARGE_BYTES - 2 * SIDE * SIDE)
        command = [sys.executable, "-c", script, str(source), str(Path(base) / "copy.dcm")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def _report(
    rates: dict[tuple[str, str], list[float]], elements: dict[str, int], rounds: int, seconds: float, megabytes: float
) -> str:
    medians = {key: statistics.median(found) for key, found in rates.items()}
    reference = "pydicom, read and written alone"
    lines = [
        f"Measured with `scripts/bench deidentify --rounds {rounds}` on {describe()}.",
        f"CT of 525 KB a processor second, medians of {rounds}; in brackets the ratio to pydicom's reading, writing.",
        "",
        "| profile | " + " | ".join(f"{elements[header]} elements" for header in elements) + " |",
        "|---" * (len(elements) + 1) + "|",
    ]
    for name in dict.fromkeys(name for _, name in rates):
        cells = [
            f"{medians[header, name]:,.0f}/s"
            + (f" ({medians[header, name] / medians[header, reference]:.2f}x)" if name != reference else "")
            for header in elements
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cost = f"{seconds:.1f} s of a processor and {megabytes:.0f} MB of memory at most"
    lines += ["", f"An object of 2 GB takes {cost}, in a process of its own."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
