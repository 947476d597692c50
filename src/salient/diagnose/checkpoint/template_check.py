"""Chat templates: whether each renders a message with its text, in a process of its own."""

from dataclasses import dataclass, field

from salient.core.conversations import Document
from salient.core.input_files import read_input
from salient.core.model_files import as_list, as_object
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place
from salient.models.chat_template import LostText, render_conversation
from salient.models.template_process import TemplateFault

from .companion_files import SETTINGS, TEMPLATE, CompanionFiles
from .contents import FINDINGS

OWN_FILE = "chat_template.jinja"
NAMED = "additional_chat_templates"
# Templates for plain messages, the first that is there counts; others may need tools or documents.
MAIN = (OWN_FILE, SETTINGS, f"{SETTINGS}: default", TEMPLATE)
SYNTAX = "TemplateSyntaxError"
MOST_BYTES, MOST_TEMPLATES = 2**20, 16
MESSAGE = "Which colours has the flag of Iceland?"


@dataclass(frozen=True)
class TemplateSubject:
    """What a template reads of its tokenizer."""

    chat_template: str
    special_tokens_map: dict[str, str] = field(default_factory=dict[str, str])


def check_templates(read: CompanionFiles) -> list[Finding]:
    """Findings on each template of the folder, and on two that differ."""
    templates, findings = read_templates(read)
    broken: list[Place] = []
    refusing: list[Place] = []
    losing: list[Place] = []
    for where, template in list(templates.items())[:MOST_TEMPLATES]:
        try:
            _render(template, read.all_special)
        except TemplateFault as fault:
            if where in MAIN or fault.reason.startswith(SYNTAX):
                places = refusing if fault.kind == "demand" else broken
                places.append((where, fault.reason))
        except LostText as lost:
            text = f"{lost.term!r} of the message is not in the rendered text"
            losing += [(where, text)] if where in MAIN else []
    main = {where: templates[where] for where in MAIN if where in templates}
    twice = [(where, f"{len(text)} letters") for where, text in main.items()]
    none = not templates and not findings
    return [
        *findings,
        *FINDINGS["template-broken"].at(broken),
        *FINDINGS["template-refuses"].at(refusing),
        *FINDINGS["template-loses-text"].at(losing),
        *FINDINGS["template-twice"].at(
            twice if len(set(main.values())) > 1 else [], count=1, first=next(iter(main), "")
        ),
        *FINDINGS["template-missing"].at([(read.folder.name, f"no {OWN_FILE}")] if none else []),
    ]


def read_templates(read: CompanionFiles) -> tuple[dict[str, str], list[Finding]]:
    """The templates by their places, and findings for files that are no text."""
    templates: dict[str, str] = {}
    damaged: list[Place] = []
    for path in (read.folder / OWN_FILE, *sorted((read.folder / NAMED).glob("*.jinja"))):
        if path.is_file():
            try:
                templates[path.relative_to(read.folder).as_posix()] = read_input(
                    path, MOST_BYTES
                ).decode()
            except (OSError, ValueError) as error:
                damaged.append((path.name, str(error)))
    for file in (SETTINGS, TEMPLATE):
        value = read.files.get(file, {}).get("chat_template")
        if isinstance(value, str):
            templates[file] = value
        for row in map(as_object, as_list(value)):
            if isinstance(text := row.get("template"), str):
                templates[f"{file}: {row.get('name')}"] = text
    return templates, FINDINGS["companion-damaged"].at(damaged)


def _render(template: str, special: dict[str, str]) -> None:
    """Raises TemplateFault, and LostText for a template that leaves the message out."""
    document = Document("", messages=({"role": "user", "content": MESSAGE},))
    subject = TemplateSubject(template, special)
    render_conversation(subject, document, strict=True, add_generation_prompt=True)
