# ruff: noqa: RUF001 (letters of other languages)
"""Files of packages -> passages of text: one reader for each kind of file."""

import ast
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path
from random import Random

SHORTEST, LONGEST = 400, 4200  # characters of a passage
LONG = (30_000, 45_000)  # of a long document, which stays whole
BLOCKS = {"p", "li", "h1", "h2", "h3", "h4", "tr", "dt", "dd", "div", "pre", "table"}
SKIPPED = {"script", "style", "head", "svg", "button", "title"}
FRAME = re.compile(
    "page-header|quickview|(top|bottom)lang|lang-toggle|top|up|path|footer|menu|header|toc|seealso|"
    "permalink|comments.*|column2|mark|gtoc"
)
LICENCE = re.compile(r"copyright|licen[cs]e|SPDX|warrant|@(generated|flow)", re.IGNORECASE)


class _Page(HTMLParser):
    """The text of a page: headings and lists as Markdown, code fenced, navigation left out."""

    def __init__(self):
        super().__init__()
        self.parts, self._stack, self._hidden = list[str](), list[tuple[str, bool]](), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"br", "img", "meta", "link", "input", "hr"}:
            self.parts.append("\n" if tag == "br" else "")
            return
        marks = " ".join(value or "" for name, value in attrs if name in ("id", "class"))
        hides = tag in SKIPPED or any(FRAME.fullmatch(mark) for mark in marks.split())
        self._stack.append((tag, hides))
        self._hidden += hides
        heading = re.fullmatch(r"h([1-4])", tag)
        start = {"li": "\n- ", "pre": "\n\n```\n", "td": " ", "th": " "}.get(tag, "")
        self.parts.append(f"\n\n{'#' * int(heading[1])} " if heading else start)

    def handle_endtag(self, tag: str) -> None:
        while self._stack and any(name == tag for name, _ in self._stack):
            name, hides = self._stack.pop()
            self._hidden -= hides
            if name == "pre":
                self.parts.append("\n```\n\n")
            elif name in BLOCKS:
                self.parts.append("\n" if name in ("li", "tr") else "\n\n")
            if name == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            code = any(name == "pre" for name, _ in self._stack)
            self.parts.append(data if code else re.sub(r"\s+", " ", data).replace("¶", ""))


def page(path: Path) -> str:
    """The text of an HTML page."""
    parser = _Page()
    data = path.read_bytes()
    charset = re.search(rb"charset=([\w-]+)", data[:2000])
    parser.feed(data.decode(charset[1].decode() if charset else "utf-8"))
    text = re.sub(r" *\n *", "\n", "".join(parser.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def joined(blocks: list[str], low: int = SHORTEST, high: int = LONGEST) -> Iterator[str]:
    """Consecutive blocks as passages of `low` to `high` characters; longer blocks are left out."""
    passage = ""
    for block in [*blocks, "\0" * (high + 1)]:
        if len(passage) + len(block) > high:
            if len(passage) >= low:
                yield passage.strip()
            passage = ""
        if len(block) <= high:
            passage += ("\n\n" if passage else "") + block.strip("\n")


def sections(path: Path) -> Iterator[str]:
    """Passages of a document (HTML, Markdown, reStructuredText) from heading to heading."""
    text = page(path) if path.suffix == ".html" else path.read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->|^\[[^\]]*\]: .*$|^\.\. _.*$", "", text, flags=re.S | re.M)
    text = re.sub(r"\n{3,}", "\n\n", text)
    parts = re.split(r"\n(?=#{1,4} )|\n(?=[^\n]+\n[=\-~*^]{4,}\n)", text)
    for part in parts:
        yield from joined(re.split(r"\n\n(?=\S)", part))


def code(path: Path) -> Iterator[str]:
    """Passages of a program, from one definition at the margin to another."""
    text = path.read_text(encoding="utf-8").expandtabs(4)
    blocks = re.split(r"\n\n+(?=\S)", text)
    while blocks and (LICENCE.search(blocks[0]) or len(blocks[0]) < 20):
        blocks.pop(0)
    yield from (p for p in joined(blocks) if not LICENCE.search(p))


def whole(path: Path) -> Iterator[str]:
    """A long document: whole, or its beginning up to a heading or a definition."""
    text = page(path) if path.suffix == ".html" else path.read_text(encoding="utf-8")
    blocks = re.split(r"\n\n(?=\S)", text.expandtabs(4))
    while blocks and LICENCE.search(blocks[0]):
        blocks.pop(0)
    text = "\n\n".join(blocks)
    if len(text) > LONG[1]:
        text = text[: text.rfind("\n\n", 0, LONG[1])]
    if len(text) >= LONG[0]:
        yield text


def docstrings(path: Path) -> Iterator[str]:
    """Long docstrings of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.Module)):
            text = ast.get_docstring(node) or ""
            if len(text) > SHORTEST:
                name = getattr(node, "name", path.stem)
                yield from joined([f"{name}\n{'=' * len(name)}", *text.split("\n\n")])


REQUESTS = (
    "Write a Python function `{name}`. {summary}",
    "Implement `{name}` in Python.\n\n{summary}",
    "I need a Python function with this signature:\n\n    {signature}\n\n{summary}",
    "Please complete this function:\n\n```python\n{signature}\n    ...\n```\n\n{summary}",
)


def functions(path: Path) -> Iterator[list[str]]:
    """Requests for the functions of a module, with the functions as answers; and the reverse."""
    text = path.read_text(encoding="utf-8")
    lines, rng = text.splitlines(), Random(path.name)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        summary = ast.get_docstring(node) or ""
        first = node.body[0].end_lineno or 0
        body, end = lines[first : node.end_lineno], node.end_lineno or 0
        if not (80 < len(summary) < 900 and 5 < len(body) < 45) or node.name.startswith("test"):
            continue
        head = lines[node.lineno - 1 : node.body[0].lineno - 1]
        indent = len(head[0]) - len(head[0].lstrip())
        source = "\n".join(line[indent:] for line in [*head, *body])
        fenced = f"```python\n{source}\n```"
        if rng.random() < 0.3:
            whole_source = "\n".join(line[indent:] for line in lines[node.lineno - 1 : end])
            yield [f"What does this function do?\n\n{fenced}", f"{summary}"]
            yield [
                f"Add a docstring to this function.\n\n{fenced}",
                f"```python\n{whole_source}\n```",
            ]
        else:
            signature = "\n".join(line[indent:] for line in head)
            request = rng.choice(REQUESTS)
            yield [
                request.format(name=node.name, summary=summary, signature=signature),
                fenced,
            ]


QUESTIONS = {
    "en": ("What should I know about {}?", "How does this work: {}?", "Explain: {}", "{}?"),
    "de": ("Was muss ich über {} wissen?", "Erkläre mir bitte: {}"),
    "fr": ("Que faut-il savoir sur : {} ?", "Explique-moi : {}"),
    "es": ("¿Qué debo saber sobre {}?", "Explícame, por favor: {}"),
    "ja": ("{}について教えてください。", "{}とは何ですか。"),
    "ko": ("{}에 대해 알려 주세요.", "{} 설명해 줘."),
    "tr": ("{} hakkında bilgi verir misin?", "Açıkla: {}"),
}


def questions(path: Path) -> Iterator[list[str]]:
    """The sections of a page as a conversation: questions of their headings, answers of them."""
    language = next((part for part in path.parts if part in QUESTIONS), "en")
    text = page(path) if path.suffix == ".html" else path.read_text(encoding="utf-8")
    rng, turns = Random(str(path.name)), list[str]()
    for part in re.split(r"\n(?=#{2,4} )", text)[1:]:
        heading, _, answer = part.partition("\n")
        heading = re.sub(r"[`#\\]|<.*?>", "", heading).strip(" .:?")
        answer = re.sub(r"<!--.*?-->", "", answer, flags=re.S).strip()
        if not (150 < len(answer) < 1800 and 4 < len(heading) < 90):
            continue
        turns += [rng.choice(QUESTIONS[language]).format(heading), answer]
        if len(turns) >= 2 * rng.randint(1, 4):
            yield turns
            turns = []


def declaration(path: Path) -> Iterator[str]:
    """Articles of the Universal Declaration of Human Rights, others in each language."""
    blocks = page(path).split("\n\n")
    start = Random(path.stem).randrange(max(1, len(blocks) // 2))
    yield from islice(joined([blocks[0], *blocks[start:]], 400, 1100), 1)


def records(path: Path) -> Iterator[str]:
    """Sections of a JSON document, written in several ways."""
    rng, data = Random(path.stem), json.loads(path.read_text(encoding="utf-8"))
    indent = rng.choice((2, 4, None))
    for name, value in data.items():
        text = json.dumps({name: value}, ensure_ascii=False, indent=indent)
        if SHORTEST < len(text) < LONGEST:
            yield text


ARTICLE = {
    "Introduction": ("Background",),
    "Geography": ("Location", "Climate", "Terrain", "Environment - current issues"),
    "People and Society": ("Languages", "Religions"),
    "Economy": ("Economy - overview",),
    "Transnational Issues": ("Disputes - international",),
}


def article(path: Path) -> Iterator[str]:
    """The prose of a country's profile."""
    data = json.loads(path.read_text(encoding="utf-8"))
    parts = list[str]()
    for name, keys in ARTICLE.items():
        fields = data.get(name) or {}
        texts = [(fields.get(key) or {}).get("text") for key in keys]
        if any(texts):
            parts.append(f"## {name}\n\n" + "\n\n".join(text for text in texts if text))
    yield from joined(parts)


def country(path: Path) -> Iterator[str]:
    """A long JSON document, indented."""
    data = json.loads(path.read_text(encoding="utf-8"))
    text = json.dumps(data, ensure_ascii=False, indent=1)
    if len(text) >= LONG[0]:
        yield text[: LONG[1]]


def markup(path: Path) -> Iterator[str]:
    """Passages of a page's own HTML."""
    text = path.read_text(encoding="utf-8")
    yield from joined(re.split(r"\n\n+", text[text.find("<h2") :]), high=2400)
