"""Hostile files for every option that takes one: special files, and bytes of no sense."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.hostile_folders import place

KINDS = (
    "fifo", "socket", "folder", "/dev/zero", "/dev/full", "/proc/kmsg", "/proc/self/environ",
    "loop", "dangling", "empty", "sparse", "line", "binary", "deep", "utf16", "cut", "list",
    "surrogates", "html", "nuls", "deep rows", "half pairs", "numbers", "long name",
)  # fmt: skip
ROW = b'{"prompt": "a", "expected": "b", "text": "some text", "messages": []}\n'
BYTES = {
    "nuls": b"\0" * 100_000,
    "deep rows": b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}\n",
    "half pairs": b'{"text": "\\ud800 text", "prompt": "\\udfff", "expected": "a"}\n' * 3,
    "numbers": b'{"text": 1e999, "prompt": ' + b"9" * 5000 + b', "expected": NaN}\n',
    "long name": b'{"' + b"a" * 10**6 + b'": 1}\n',
}
# Place of the file in a command line, with its suffix; {llama} and {awq} are good folders.
COMMANDS = (
    "quantize {llama} --dry-run --device cpu --samples 2 --sequence-length 64 --scheme w4-g32"
    " -o {home}/out --calibration {file}.jsonl",
    "quantize {llama} --dry-run --device cpu --samples 2 --sequence-length 64 --scheme w4-g32"
    " -o {home}/out --calibration {file}.txt",
    "quantize {llama} --dry-run --device cpu --samples 2 --sequence-length 64 --scheme w4-g32"
    " -o {home}/out --calibration {file}.csv",
    "quantize {llama} --dry-run --device cpu --samples 2 --sequence-length 64 --scheme w4-g32"
    " -o {home}/out --calibration {file}.parquet",
    "quantize {llama} --dry-run --device cpu --samples 2 --sequence-length 64 --scheme w4-g32"
    " -o {home}/out --calibration {file}.txt.gz",
    "evaluate {awq} --reference {llama} --device cpu --samples 2 --sequence-length 64"
    " --text {file}.txt",
    "validate {awq} --reference {llama} --device cpu --context-lengths off --load-test off"
    " --tasks {file}.jsonl",
    "validate {awq} --reference {llama} --device cpu --context-lengths off --load-test off"
    " --tasks off --policy {file}.toml",
    "doctor --log {file}.log",
    "doctor --config {file}.yaml",
    "doctor --config {file}.json",
    "doctor --config {file}.py",
    "doctor --config {file}.sh",
    "doctor {file}.json",
    "plan {file}.json --gpu rtx4090",
    "load-test {file}.json --tool guidellm",
    "quantize {llama} --dry-run --adapter {file} -o {home}/out",
    "generate {file} --prompt a",
    "push {file} org/name --dry-run",
    "inspect {file}",
)


PAIRS = tuple((command, kind) for command in COMMANDS for kind in KINDS)


def hostile_commands(
    home: Path, bases: dict[str, Path], pairs: Sequence[tuple[str, str]] = PAIRS
) -> Iterator[list[str]]:
    """The command lines of `pairs`, each with its file in place."""
    folder = home / "inputs"
    folder.mkdir()
    for number, (command, kind) in enumerate(pairs):
        name = f"{number}-{kind.strip('/').replace('/', '-').replace(' ', '-')}"
        places = {"home": home, "file": folder / name, **bases}
        argv = [part.format(**places) for part in command.split()]
        path = next(Path(part) for part in argv if part.startswith(str(folder)))
        if kind in BYTES:
            path.write_bytes(BYTES[kind])
        else:
            place(path, kind, ROW * 20)
        yield argv
        if kind == "line" and path.is_file():
            path.unlink()
