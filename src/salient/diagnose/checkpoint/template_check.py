"""Chat templates: whether each renders a message with its text, in a process of its own."""

from dataclasses import dataclass, field

from salient.core.conversations import Document
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place
from salient.models.chat_template import LostText, render_conversation
from salient.models.template_process import TemplateFault

from .companion_files import OWN_TEMPLATE, SETTINGS, TEMPLATE, CompanionFiles
from .contents import FINDINGS

# Templates for plain messages, the first that is there counts; others may need tools or documents.
MAIN = (OWN_TEMPLATE, SETTINGS, f"{SETTINGS}: default", TEMPLATE)
SYNTAX = "TemplateSyntaxError"
MOST_TEMPLATES = 16
MESSAGE = "Which colours has the flag of Iceland?"


@dataclass(frozen=True)
class TemplateSubject:
    """What a template reads of its tokenizer."""

    chat_template: str
    special_tokens_map: dict[str, str] = field(default_factory=dict[str, str])


def check_templates(read: CompanionFiles) -> list[Finding]:
    """Findings on each template of the folder, and on two that differ."""
    templates = read.templates
    broken: list[Place] = []
    refusing: list[Place] = []
    losing: list[Place] = []
    for where, template in list(templates.items())[:MOST_TEMPLATES]:
        if not template:
            broken.append((where, "it is empty"))
            continue
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
    return [
        *FINDINGS["template-broken"].at(broken),
        *FINDINGS["template-refuses"].at(refusing),
        *FINDINGS["template-loses-text"].at(losing),
        *FINDINGS["template-twice"].at(
            twice if len(set(main.values())) > 1 else [], count=1, first=next(iter(main), "")
        ),
        *FINDINGS["template-missing"].at(
            [] if templates else [(read.folder.name, f"no {OWN_TEMPLATE}")]
        ),
    ]


def _render(template: str, special: dict[str, str]) -> None:
    """Raises TemplateFault, and LostText for a template that leaves the message out."""
    document = Document("", messages=({"role": "user", "content": MESSAGE},))
    subject = TemplateSubject(template, special)
    render_conversation(subject, document, strict=True, add_generation_prompt=True)
