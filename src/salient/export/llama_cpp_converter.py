"""A template from a 16-bit model: by llama.cpp's own converter, if one is installed.

The converter is a program of Python of another project, so it runs as a process: it needs an
environment of its own.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from salient.core.errors import MissingExtra, ModelError, RequestError

CONVERTER = "convert_hf_to_gguf.py"


@contextmanager
def template_file(template: str | os.PathLike[str] | None) -> Generator[Path]:
    """The template's file: as it is, or converted from a folder into a temporary one.

    Raises RequestError without a template, MissingExtra without a converter.
    """
    if template is None:
        raise RequestError(
            "export --to gguf needs --template: a GGUF file of the same model (of any type, such "
            f"as one of the Hub), or its 16-bit folder where {CONVERTER} of llama.cpp is on PATH."
        )
    path = Path(template)
    if not path.is_dir():
        if not path.is_file():
            raise RequestError(f"No template {str(path)!r}. Use a GGUF file of the same model.")
        yield path
        return
    program = shutil.which(CONVERTER)
    if program is None:
        raise MissingExtra(
            f"--template {path} is a folder, which llama.cpp's {CONVERTER} converts; it is not on "
            "PATH. Install llama.cpp, or use a GGUF file of the same model."
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        file = Path(place) / "template.gguf"
        command = [program, str(path), "--outtype", "f16", "--outfile", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not file.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelError(
                f"{CONVERTER} does not convert {path} (exit code {done.returncode}: {last[:300]}). "
                "Run it by hand, and use its file as --template."
            )
        yield file
