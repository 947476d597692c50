# ruff: noqa: RUF001 (signs of mathematics)
"""Texts written for the corpus: calls of tools, tables and questions about them, logs, settings,
worked problems. Seeded; every figure is computed.
"""

import csv
import io
import json
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

Turns = list[str]  # the user's and the assistant's turns, alternating; "system: ..." may come first

CITIES = {
    "Lisbon": (38.72, "EUR", 18), "Osaka": (34.69, "JPY", 24), "Nairobi": (-1.29, "KES", 22),
    "Toronto": (43.65, "CAD", 3), "Lima": (-12.05, "PEN", 19), "Oslo": (59.91, "NOK", -4),
    "Hanoi": (21.03, "VND", 29), "Cairo": (30.04, "EGP", 33), "Bogotá": (4.71, "COP", 14),
    "Kraków": (50.06, "PLN", 7), "Izmir": (38.42, "TRY", 21), "Pune": (18.52, "INR", 31),
}  # fmt: skip
PEOPLE = ["Amina", "Jonas", "Mei", "Rafael", "Ingrid", "Tunde", "Yuki", "Carla", "Omar", "Lucie"]
GOODS = {"notebooks": 3, "lamps": 24, "chairs": 45, "kettles": 29, "cables": 6, "mugs": 8}
TOOLS: dict[str, tuple[str, dict[str, str]]] = {
    "get_weather": ("Current weather of a city", {"city": "string", "unit": "celsius|fahrenheit"}),
    "convert_currency": (
        "Convert an amount between currencies",
        {"amount": "number", "from": "ISO 4217 code", "to": "ISO 4217 code"},
    ),
    "search_orders": (
        "List a customer's orders",
        {"customer": "string", "status": "open|shipped|returned", "limit": "integer"},
    ),
    "create_event": (
        "Add an event to the calendar",
        {"title": "string", "date": "YYYY-MM-DD", "start": "HH:MM", "minutes": "integer"},
    ),
    "run_sql": ("Run a read-only SQL query", {"query": "string"}),
}


def _system(rng: Random, names: list[str]) -> str:
    """A system turn that declares tools, in one of two common forms."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": TOOLS[name][0],
                "parameters": {
                    "type": "object",
                    "properties": {k: {"type": v} for k, v in TOOLS[name][1].items()},
                    "required": list(TOOLS[name][1])[:2],
                },
            },
        }
        for name in names
    ]
    listing = "\n".join(json.dumps(tool) for tool in tools)
    return "system: " + rng.choice((
        f"You are a function calling model. The signatures are within <tools></tools>:\n<tools>\n"
        f"{listing}\n</tools>\nReturn each call as JSON within <tool_call></tool_call>.",
        f"You have access to these tools. To use one, answer with a JSON object with \"name\" and "
        f"\"arguments\".\n\n{json.dumps(tools, indent=2)}",
    ))  # fmt: skip


def tool_call(rng: Random) -> Turns:
    """A request, the call, its result, and the answer from the result."""
    city, person = rng.choice(list(CITIES)), rng.choice(PEOPLE)
    _, currency, degrees = CITIES[city]
    amount, rate = rng.randint(2, 90) * 10, rng.randint(20, 900) / 100
    day, hour = f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}", rng.randint(8, 17)
    low = rng.randint(2, 9)
    rows = [{"sku": g, "left": rng.randint(0, low)} for g in rng.sample(list(GOODS), 3)]
    empty = [row["sku"] for row in rows if not row["left"]]
    number = rng.randint(10_000, 99_999)
    calls: dict[str, tuple[str, dict[str, Any], Any, str]] = {
        "get_weather": (
            rng.choice((f"Do I need a coat in {city} today?", f"How warm is it in {city} now?")),
            {"city": city, "unit": "celsius"},
            {"city": city, "temperature": degrees, "condition": "light rain", "wind_kmh": low},
            f"It is {degrees} °C in {city} with light rain and a wind of {low} km/h"
            f"{', so a warm coat helps.' if degrees < 12 else '. A light jacket is enough.'}",
        ),
        "convert_currency": (
            f"What are {amount} euros in {currency}?",
            {"amount": amount, "from": "EUR", "to": currency},
            {"rate": rate, "result": round(amount * rate, 2)},
            f"{amount} EUR are {amount * rate:,.2f} {currency} at a rate of {rate}.",
        ),
        "search_orders": (
            f"{person} asks where her last order is. The customer number is {number}.",
            {"customer": str(number), "status": "shipped", "limit": 1},
            [{"order": f"A-{number % 977}", "item": rng.choice(list(GOODS)), "shipped": day}],
            f"Order A-{number % 977} was shipped on {day}. I can send {person} the tracking link.",
        ),
        "create_event": (
            f"Put a call with {person} into my calendar on {day} at {hour}, half an hour.",
            {"title": f"Call with {person}", "date": day, "start": f"{hour:02d}:00", "minutes": 30},
            {"status": "created", "id": f"evt_{number}"},
            f"Done: “Call with {person}” on {day} from {hour:02d}:00 to {hour:02d}:30.",
        ),
        "run_sql": (
            f"Which products have at most {low} pieces left? The table is stock(sku, left).",
            {"query": f"SELECT sku, left FROM stock WHERE left <= {low} ORDER BY left LIMIT 3"},
            rows,
            f"{len(rows)} products: " + ", ".join(f"{r['sku']} ({r['left']})" for r in rows)
            + (f". Out of stock: {', '.join(empty)}." if empty else ". None is out of stock."),
        ),
    }  # fmt: skip
    names = rng.sample(list(calls), rng.randint(1, 3))
    turns = [_system(rng, names)]
    for name in rng.sample(names, rng.randint(1, len(names))):
        request, arguments, result, answer = calls[name]
        call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        turns += [
            request,
            f"<tool_call>\n{call}\n</tool_call>",
            f"<tool_response>\n{json.dumps(result, ensure_ascii=False)}\n</tool_response>",
            answer,
        ]
    return turns


def table_of(rng: Random, rows: list[dict[str, str]]) -> str:
    """Rows as Markdown, CSV, TSV or JSON lines."""
    names, form = list(rows[0]), rng.choice(("markdown", "csv", "tsv", "json"))
    if form == "json":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if form == "markdown":
        lines = [names, ["---"] * len(names), *(row.values() for row in rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    out = io.StringIO()
    delimiter = {"csv": ",", "tsv": "\t"}[form]
    writer = csv.DictWriter(out, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def table_question(rng: Random, rows: list[dict[str, str]], numbers: dict[str, str]) -> Turns:
    """A table and a question about it; `numbers`: column -> unit."""
    name, (column, unit) = next(iter(rows[0])), rng.choice(list(numbers.items()))
    values = {row[name]: float(row[column].replace(",", "")) for row in rows}
    ordered = sorted(values, key=lambda key: -values[key])
    total = sum(values.values())
    listing = "\n".join(f"{i}. {key}: {values[key]:,g} {unit}" for i, key in enumerate(ordered, 1))
    request, answer = rng.choice((
        (f"Sort these by {column}, the largest first.", listing),
        (
            f"Which has the largest {column}, and what is its share of the sum?",
            f"The sum of {column} is {total:,.10g} {unit}. **{ordered[0]}** has the largest, "
            f"{values[ordered[0]]:,g} {unit}, which is {values[ordered[0]] / total:.1%}.",
        ),
        (
            f"How do the first and the last differ in {column}?",
            f"{ordered[0]} has {values[ordered[0]]:,g} {unit}, {ordered[-1]} has "
            f"{values[ordered[-1]]:,g} {unit}: a difference of "
            f"{values[ordered[0]] - values[ordered[-1]]:,.10g} {unit}.",
        ),
        (
            "Convert the table to JSON.",
            "```json\n" + json.dumps(rows, indent=2, ensure_ascii=False) + "\n```",
        ),
    ))  # fmt: skip
    return [f"{request}\n\n{table_of(rng, rows)}", answer]


def server_log(rng: Random) -> str:
    """Lines of an access log, of a system's journal, or JSON lines of a service."""
    day, clock, lines = rng.randint(1, 28), rng.randint(0, 80_000), list[str]()
    form = rng.choice(("access", "journal", "json"))
    paths = ["/", "/api/v1/orders", "/static/app.css", "/login", "/api/v1/users/{}", "/health"]
    for _ in range(rng.randint(12, 28)):
        clock += rng.randint(0, 40)
        time = f"{clock // 3600:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}"
        host = ".".join(str(rng.randint(1, 254)) for _ in range(4))
        path = rng.choice(paths).format(rng.randint(1, 999))
        status = rng.choice((200, 200, 200, 201, 301, 304, 403, 404))
        size, spent = rng.randint(90, 90_000), rng.randint(1, 900)
        verb = "POST" if status == 201 else "GET"
        if form == "access":
            lines.append(
                f'{host} - - [{day:02d}/Mar/2026:{time} +0000] "{verb} {path} HTTP/1.1" {status} '
                f'{size} "-" "Mozilla/5.0 (X11; Linux x86_64; rv:{rng.randint(100, 140)}.0)"'
            )
        elif form == "json":
            record = {"ts": f"2026-03-{day:02d}T{time}Z", "level": "info", "msg": "request"}
            record |= {"method": verb, "path": path, "status": status, "ms": spent}
            lines.append(json.dumps(record))
        else:
            text = rng.choice((
                f"sshd[{size % 9999}]: Accepted publickey for deploy from {host} port {size}",
                f"systemd[1]: Started session-{spent}.scope - Session {spent} of user deploy.",
                f"kernel: [{size}.{spent:06d}] eth0: renamed from veth{spent:x}",
                f"cron[{size % 9999}]: (root) CMD (/usr/local/bin/rotate --days {spent % 30})",
                f"dhclient[{spent}]: bound to {host} -- renewal in {size} seconds.",
            ))  # fmt: skip
            lines.append(f"Mar {day:2d} {time} web-{spent % 4 + 1} {text}")
    return "\n".join(lines)


def settings(rng: Random) -> str:
    """A service's settings as YAML, TOML or INI."""
    name, port = rng.choice(("orders", "billing", "search", "mailer", "images")), rng.randint(3, 9)
    count, memory = rng.randint(1, 6), 2 ** rng.randint(7, 11)
    level, day = rng.choice(("debug", "info", "warning")), rng.randint(1, 28)
    return rng.choice((
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}\n  labels:\n    app: "
        f"{name}\nspec:\n  replicas: {count}\n  selector:\n    matchLabels:\n      app: {name}\n"
        f"  template:\n    metadata:\n      labels:\n        app: {name}\n    spec:\n"
        f"      containers:\n        - name: {name}\n"
        f"          image: registry.local/{name}:1.{day}\n"
        f"          ports:\n            - containerPort: {port}080\n          resources:\n"
        f"            limits:\n              memory: {memory}Mi\n              cpu: {count}00m\n"
        f"          env:\n            - name: LOG_LEVEL\n              value: {level}\n",
        f"services:\n  {name}:\n    build: ./{name}\n    ports:\n      - \"{port}000:{port}000\"\n"
        f"    environment:\n      DATABASE_URL: postgres://{name}@db/{name}\n"
        f"      LOG_LEVEL: {level}\n    depends_on: [db, cache]\n    deploy:\n"
        f"      resources:\n        limits:\n          memory: {memory}M\n  db:\n"
        f"    image: postgres:15\n    volumes:\n      - data:/var/lib/postgresql/data\n"
        f"  cache:\n    image: redis:{port}\nvolumes:\n  data: {{}}\n",
        f"[project]\nname = \"{name}\"\nversion = \"0.{day}.{count}\"\n"
        f"requires-python = \">=3.{port}\"\ndependencies = [\n    \"fastapi>=0.{100 + day}\",\n"
        f"    \"pydantic>=2.{count}\",\n]\n\n[tool.{name}]\nworkers = {count}\n"
        f"cache_mb = {memory}\nlog_level = \"{level}\"\n\n[tool.ruff]\nline-length = 100\n\n"
        f"[tool.ruff.lint]\nselect = [\"E\", \"F\", \"I\", \"UP\"]\n\n[tool.pytest.ini_options]\n"
        f"testpaths = [\"tests\"]\naddopts = \"-q --maxfail={count}\"\n",
        f"[server]\nlisten = 0.0.0.0:{port}443\nworkers = {count}\nlog_level = {level}\n\n"
        f"[database]\nhost = db-{count}.internal\nport = 5432\nname = {name}\npool_size = "
        f"{count * 4}\ntimeout_seconds = {day}\n\n[cache]\nbackend = redis\nmax_memory_mb = "
        f"{memory}\nexpire_seconds = {day * 60}\n\n[mail]\nfrom = {name}@example.org\n"
        f"retries = {count}\n",
    ))  # fmt: skip


def _purchase(rng: Random) -> tuple[str, str]:
    first, second = rng.sample(list(GOODS), 2)
    a, b, off = rng.randint(2, 9), rng.randint(2, 9), rng.choice((5, 10, 20, 25))
    total = a * GOODS[first] + b * GOODS[second]
    paid = Fraction(total * (100 - off), 100)
    return (
        f"{rng.choice(PEOPLE)} buys {a} {first} at ${GOODS[first]} each and {b} {second} at "
        f"${GOODS[second]} each, with {off}% off the whole. What is the price?",
        f"1. {first.capitalize()}: {a} × ${GOODS[first]} = ${a * GOODS[first]}.\n"
        f"2. {second.capitalize()}: {b} × ${GOODS[second]} = ${b * GOODS[second]}.\n"
        f"3. Together: ${total}.\n4. The discount is {off}% of ${total}, which is "
        f"${float(total - paid):.2f}.\n\nThe price is ${total} - ${float(total - paid):.2f} = "
        f"**${float(paid):.2f}**.",
    )


def _linear(rng: Random) -> tuple[str, str]:
    x, a, c = rng.randint(-9, 9), rng.randint(2, 9), rng.randint(-5, -2)
    b, d = rng.randint(1, 20), 0
    d = a * x + b - c * x
    return (
        rng.choice(("Solve for $x$: ", "Find $x$ such that ")) + f"${a}x + {b} = {d} - {-c}x$.",
        f"Bring the terms with $x$ to the left and the numbers to the right:\n\n"
        f"$$\n\\begin{{aligned}}\n{a}x + {-c}x &= {d} - {b} \\\\\n{a - c}x &= {d - b} \\\\\n"
        f"x &= \\frac{{{d - b}}}{{{a - c}}} = {x}\n\\end{{aligned}}\n$$\n\nCheck: the left side is "
        f"${a}\\cdot({x}) + {b} = {a * x + b}$, the right side ${d} - {-c}\\cdot({x}) = "
        f"{d + c * x}$. So $\\boxed{{x = {x}}}$.",
    )


def _quadratic(rng: Random) -> tuple[str, str]:
    p, q = sorted(rng.sample([n for n in range(-9, 10) if n], 2))
    b, c = -(p + q), p * q
    return (
        f"Find the roots of $x^2 {b:+d}x {c:+d}$.",
        f"We look for two numbers with the sum ${-b}$ and the product ${c}$. These are ${p}$ and "
        f"${q}$, so\n\n$$x^2 {b:+d}x {c:+d} = (x {-p:+d})(x {-q:+d}).$$\n\nA product is zero when "
        f"a factor is: $x = {p}$ or $x = {q}$. The discriminant agrees: "
        f"$\\Delta = {b * b} {-4 * c:+d} = {b * b - 4 * c} = {q - p}^2$.",
    )


def _derivative(rng: Random) -> tuple[str, str]:
    a, n, b, k = rng.randint(2, 9), rng.randint(3, 6), rng.randint(2, 9), rng.randint(2, 5)
    return (
        f"Differentiate $f(x) = {a}x^{n}e^{{{k}x}} + {b}\\ln x$.",
        f"The first term is a product. With $u = {a}x^{n}$ and $v = e^{{{k}x}}$ we have "
        f"$u' = {a * n}x^{{{n - 1}}}$ and $v' = {k}e^{{{k}x}}$, so\n\n$$(uv)' = u'v + uv' = "
        f"{a * n}x^{{{n - 1}}}e^{{{k}x}} + {a * k}x^{n}e^{{{k}x}}.$$\n\nThe second term gives "
        f"$\\frac{{{b}}}{{x}}$. Together:\n\n$$f'(x) = {a}x^{{{n - 1}}}e^{{{k}x}}({n} + {k}x) + "
        f"\\frac{{{b}}}{{x}}.$$",
    )


def _probability(rng: Random) -> tuple[str, str]:
    red, blue = rng.randint(3, 9), rng.randint(3, 9)
    n = red + blue
    same = Fraction(red * (red - 1) + blue * (blue - 1), n * (n - 1))
    return (
        f"A bag has {red} red and {blue} blue marbles. Two are drawn without replacement. What is "
        "the probability that they have the same colour?",
        f"There are {n} marbles. Both red: $\\frac{{{red}}}{{{n}}}\\cdot\\frac{{{red - 1}}}"
        f"{{{n - 1}}}$. Both blue: $\\frac{{{blue}}}{{{n}}}\\cdot\\frac{{{blue - 1}}}{{{n - 1}}}$. "
        f"The events exclude each other, so we add:\n\n$$P = \\frac{{{red * (red - 1)} + "
        f"{blue * (blue - 1)}}}{{{n * (n - 1)}}} = \\frac{{{same.numerator}}}{{{same.denominator}}}"
        f" \\approx {float(same):.3f}.$$",
    )


def _journey(rng: Random) -> tuple[str, str]:
    v, w, d = rng.randint(4, 9) * 10, rng.randint(4, 9) * 10, rng.randint(10, 40) * 10
    time = Fraction(d, v + w)
    minutes = round(60 * float(time))
    here, there = rng.sample(list(CITIES), 2)
    return (
        f"Two trains start at the same time towards each other, {d} km apart, one at {v} km/h, the "
        f"other at {w} km/h ({here} line and {there} line). When do they meet?",
        f"The distance shrinks by {v} + {w} = {v + w} km in each hour. So they meet after\n\n"
        f"t = {d} / {v + w} = {time} h ≈ {minutes} minutes.\n\nBy then the first has gone "
        f"{float(v * time):.1f} km and the second {float(w * time):.1f} km, {d} km together.",
    )


def _matrix(rng: Random) -> tuple[str, str]:
    a, b, c, d = (rng.randint(-5, 6) for _ in range(4))
    t, det = a + d, a * d - b * c
    matrix = f"\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}"
    square = (a * a + b * c, a * b + b * d, c * a + d * c, c * b + d * d)
    return (
        f"Let $A = {matrix}$. Compute $\\det A$, $A^2$ and the characteristic polynomial.",
        f"$\\det A = ({a})({d}) - ({b})({c}) = {det}$ and $\\operatorname{{tr}} A = {t}$. Rows "
        f"times columns give\n\n$$A^2 = \\begin{{pmatrix}} {square[0]} & {square[1]} \\\\ "
        f"{square[2]} & "
        f"{square[3]} \\end{{pmatrix}}.$$\n\nThe characteristic polynomial is $\\lambda^2 "
        f"{-t:+d}\\lambda {det:+d}$. By Cayley–Hamilton $A^2 = {t}A {-det:+d}I$; the corner "
        f"agrees: ${t}\\cdot({a}) {-det:+d} = {t * a - det} = {square[0]}$.",
    )


PROBLEMS: tuple[Callable[[Random], tuple[str, str]], ...] = (
    _purchase, _linear, _quadratic, _derivative, _probability, _journey, _matrix,
)  # fmt: skip


def worked_problem(rng: Random, number: int) -> Turns:
    """One to three problems with their solutions."""
    count = rng.randint(1, 3)
    return [text for i in range(count) for text in PROBLEMS[(number + i) % len(PROBLEMS)](rng)]
