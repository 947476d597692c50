"""The verb `push`: check a finished checkpoint's folder, and upload it to the Hub."""

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salient.core.carried_files import EXCLUDED, WEIGHTS, matches
from salient.core.errors import CheckpointError, RequestError, ResourceError, SalientError
from salient.core.evidence import find_changed, read_evidence
from salient.core.input_files import check_folder, open_input
from salient.core.model_files import read_json, stored_tensors
from salient.core.records import is_object
from salient.core.report import Report, Table, mebibytes
from salient.core.source_card import CARD, HUB_ID, MOST_BYTES, read_front
from salient.core.version import __version__

from .options import PushOptions

LARGEST_FILE = 50 * 10**9  # bytes; the Hub's limit
# What carried_files excludes of a source, and a checkpoint has.
OWN = ("config.json", "readme.md", "salient.json", "*.index.json", "*.safetensors")
LEFTOVERS = tuple(form for form in EXCLUDED if form not in (*OWN, *WEIGHTS))
_ABSOLUTE = re.compile(r"(?<![\w/:.])/(?:home|root|Users|mnt|data|tmp|workspace)/[\w./-]+")


@dataclass(frozen=True)
class Upload:
    """A checkpoint that is ready to be uploaded.

    files: path -> bytes   left_out: path -> why   problems: what should be fixed first
    """

    folder: Path
    files: dict[str, int]
    left_out: dict[str, str]
    front: dict[str, Any]
    problems: tuple[str, ...]


def push_checkpoint(options: PushOptions) -> tuple[str, Report]:
    """Upload a checkpoint: the commit's address, '' with `dry_run`, and the report.

    Raises CheckpointError for a folder that is no finished checkpoint, RequestError for a
    repository that cannot be written, ResourceError for a Hub that does not answer.
    """
    if not HUB_ID.fullmatch(options.repo):
        raise RequestError(f"{options.repo[:96]!r} is no repository of the Hub. Give org/name.")
    upload = prepare_upload(Path(options.folder).expanduser())
    url = "" if options.dry_run else _send(upload, options)
    return url, _report(upload, options, url)


def prepare_upload(folder: Path) -> Upload:
    """Check the folder. Raises CheckpointError if it is no finished checkpoint."""
    _check_finished(folder)
    files: dict[str, int] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            left_out[name] = "a link"
        elif not path.is_file():
            continue
        elif matches(name, LEFTOVERS):
            left_out[name] = "hidden, temporary, or of another tool"
        elif matches(name, WEIGHTS) and not name.endswith(".safetensors"):
            left_out[name] = "weights that are not safetensors"
        else:
            files[name] = path.stat().st_size
    front = read_front(folder)
    return Upload(folder, files, left_out, front, tuple(_problems(folder, files, front)))


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"No folder {str(folder)!r}. Give the folder of a checkpoint.")
    if folder.name.endswith(".partial") or (folder / "journal.jsonl").exists():
        raise CheckpointError(
            f"{folder} is of an unfinished run. Run the same `salient quantize` again: it resumes."
        )
    check_folder(folder)
    config = read_json(folder / "config.json")
    if not is_object(config.get("quantization_config")):
        raise CheckpointError(
            f"{folder} is no quantized checkpoint: its config.json has no quantization_config. "
            "Quantize the model first with `salient quantize`."
        )
    stored_tensors(folder)


def _problems(folder: Path, files: dict[str, int], front: dict[str, Any]) -> list[str]:
    problems = [
        f"{name} has {mebibytes(size)}; the Hub takes at most {mebibytes(LARGEST_FILE)} a file."
        for name, size in files.items()
        if size > LARGEST_FILE
    ]
    try:
        evidence = read_evidence(folder)
    except SalientError as error:
        problems.append(str(error))
    else:
        if evidence is None:
            problems.append("No salient.json: the checkpoint carries no evidence.")
        elif note := find_changed(folder).note:
            problems.append(note)
        elif evidence.dropped:
            problems.append("Tensors of the source were dropped (--drop): not the whole model.")
    if CARD not in files:
        problems.append(f"No {CARD}: the Hub shows no card.")
    problems += [
        f"{CARD} names no {key}: add it to its front matter."
        for key in ("base_model", "license")
        if CARD in files and not front.get(key)
    ]
    for name in (CARD, "salient.json"):
        text = _start(folder / name) if name in files else ""
        if match := _ABSOLUTE.search(text):
            problems.append(f"{name} has a path of this machine: {match[0][:80]}")
    return problems


def _start(path: Path) -> str:
    with open_input(path) as file:
        return file.read(MOST_BYTES).decode("utf-8", "replace")


def _send(upload: Upload, options: PushOptions) -> str:
    """Create the repository and commit all files at once."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        BadRequestError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    api, repo = HfApi(library_name="salient", library_version=__version__), options.repo
    too_large = [name for name, size in upload.files.items() if size > LARGEST_FILE]
    if too_large:
        raise CheckpointError(upload.problems[0])
    message = options.commit_message or f"Upload {upload.folder.resolve().name} with Salient"
    try:
        if options.private:
            _check_private(api, repo)
        api.create_repo(repo, private=options.private or None, exist_ok=True)
        if options.revision:
            api.create_branch(repo, branch=options.revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=upload.folder,
            revision=options.revision,
            commit_message=message,
            allow_patterns=[glob.escape(name) for name in upload.files],
        )
    except (LocalTokenNotFoundError, RepositoryNotFoundError) as error:
        raise RequestError(_refusal(401, repo)) from error
    except (BadRequestError, ValueError) as error:
        raise RequestError(f"The Hub refuses {repo}: {_first_line(error)}") from error
    except HTTPError as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if code in (401, 403, 404):
            raise RequestError(_refusal(code, repo)) from error
        raise ResourceError(_no_answer(error)) from error
    except (OSError, RuntimeError) as error:
        raise ResourceError(_no_answer(error)) from error
    return str(commit.commit_url)


def _check_private(api: Any, repo: str) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return
    if not info.private:
        raise RequestError(
            f"{repo} exists and is public; --private is for new repositories. Make it private in "
            "its settings, or leave --private out."
        )


def _refusal(code: int, repo: str) -> str:
    owner = repo.partition("/")[0]
    if code == 403:
        return (
            f"The Hub does not let this token write to {repo}. Use a token with write access to "
            f"{owner}: `hf auth login`, or HF_TOKEN."
        )
    return (
        f"The Hub does not know this token, or {repo} is not yours. Log in with `hf auth login`, "
        "or set HF_TOKEN to a token with write access."
    )


def _no_answer(error: Exception) -> str:
    cause = error.__cause__ or error
    return (
        f"The upload did not end ({_first_line(cause)}). Check the network; the same command "
        "uploads again what is missing."
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__


def _report(upload: Upload, options: PushOptions, url: str) -> Report:
    data = {
        "repo": options.repo,
        "revision": options.revision or "main",
        "private": options.private,
        "files": upload.files,
        "left_out": upload.left_out,
        "problems": list(upload.problems),
        "front_matter": upload.front,
        "bytes": sum(upload.files.values()),
        "url": url or None,
    }
    rows = [(name, mebibytes(size)) for name, size in upload.files.items()]
    rows.append(("sum", mebibytes(data["bytes"])))
    keys = ("base_model", "license", "library_name", "pipeline_tag", "tags", "quantized_by")
    card = [(key, str(upload.front[key])) for key in keys if key in upload.front]
    lines = [
        *(f"Fix first: {problem}" for problem in upload.problems),
        *(f"Not uploaded: {name} ({why})." for name, why in upload.left_out.items()),
        f"Uploaded to {url}."
        if url
        else f"{len(upload.files)} files for {options.repo}. Nothing was sent.",
    ]
    tables = [Table(f"Files of {upload.folder}", ("file", "size"), rows)]
    tables += [Table(f"Front matter of {CARD}", ("key", "value"), card)] if card else []
    return Report(data, tables, lines)
