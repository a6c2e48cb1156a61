"""Tasks with data and code: JSON, extraction, very short programs."""

import json

from task import ask, listed, numbers, task
from tasks_letters import letters_word
from words import CITIES, NAMES, WORDS, different_words, made_up_word


@task(1.2)
def make_json(rng):
    fields = rng.sample(["name", "age", "city", "color", "count"], rng.randint(1, 3))
    value = {
        "name": rng.choice(NAMES),
        "age": rng.randint(1, 99),
        "city": rng.choice(CITIES),
        "color": rng.choice("red blue green black white".split()),
        "count": rng.randint(0, 500),
    }
    obj = {k: value[k] for k in fields}
    q = ask(
        rng,
        [
            "(make|write|give me|create) (JSON|a JSON object|json)( with|:) {f}",
            "(as JSON|in JSON|to JSON): {f}",
            "convert to JSON: {f}",
        ],
        f=rng.choice((", ", " and " if len(obj) == 2 else ", ")).join(f"{k} {v}" for k, v in obj.items()),
    )
    return json.dumps(obj), q, json.dumps(obj)


@task(1.2)
def read_json(rng):
    fields = rng.sample(["name", "age", "city", "color", "count", "id"], rng.randint(2, 4))
    value = {
        "name": rng.choice(NAMES),
        "age": rng.randint(1, 99),
        "city": rng.choice(CITIES),
        "color": rng.choice("red blue green black white".split()),
        "count": rng.randint(0, 500),
        "id": rng.randint(100, 999),
    }
    obj, key = {k: value[k] for k in fields}, rng.choice(fields)
    q = ask(
        rng,
        [
            'what is (the value of |)("{k}"|{k}) in {o}(?|)',
            "{o} (What is|Read|Give me) (the |){k}(?|)",
            '(read|extract|get) ("{k}"|{k}) from {o}',
        ],
        k=key,
        o=json.dumps(obj),
    )
    return json.dumps(obj) + key, q, str(obj[key])


@task(1.2)
def extract(rng):
    name, city, n = rng.choice(NAMES), rng.choice(CITIES), rng.randint(2, 99)
    text = rng.choice(
        [
            f"{name} lives in {city} and is {n} years old.",
            f"{name} from {city} is {n}.",
            f"In {city}, {name} paid {n} dollars.",
            f"{name} went to {city} with {n} others.",
            f"On day {n}, {name} came to {city}.",
        ]
    )
    what, answer = rng.choice((("name", name), ("city", city), ("number", str(n))))
    q = ask(
        rng,
        [
            "(find|extract|give me|what is) the {w} in(:|) {t}",
            "{t} (What is the|Give me the|Which) {w}(?|)",
            '(the |){w} in "{t}"',
        ],
        w=what,
        t=text,
    )
    return f"{name}{city}{n}{what}", q, answer


BINARY = {"adds": "+", "subtracts": "-", "multiplies": "*"}
UNARY = {
    "doubles a number": ("x", "x * 2", "double"),
    "squares a number": ("x", "x * x", "square"),
    "negates a number": ("x", "-x", "negate"),
    "halves a number": ("x", "x / 2", "half"),
}


@task(1.2)
def python_code(rng):
    kind = rng.random()
    name = rng.choice((rng.choice(WORDS), made_up_word(rng), rng.choice(WORDS) + "_" + rng.choice(WORDS)))
    if kind < 0.45:
        verb = rng.choice(list(BINARY))
        q = ask(
            rng,
            [
                "(write|give me|show me) a (Python|python) function (called |named |){n} that {v} two numbers(.|)",
                "(Python|python) function {n}(:| that) {v} two numbers",
                "(Python|python): a function {n} that {v} two numbers",
            ],
            n=name,
            v=verb,
        )
        return f"{name}{verb}", q, f"def {name}(a, b):\n    return a {BINARY[verb]} b"
    if kind < 0.75:
        what = rng.choice(list(UNARY))
        q = ask(
            rng,
            [
                "(write|give me|show me) a (Python|python) function (called |named |){n} that {v}(.|)",
                "(Python|python) function {n} that {v}",
            ],
            n=name,
            v=what,
        )
        return f"{name}{what}", q, f"def {name}(x):\n    return {UNARY[what][1]}"
    n = rng.randint(2, 99)
    if kind < 0.88:
        q = ask(
            rng,
            [
                "(write|give me|show me) a (Python|python) loop (that prints|printing) the numbers (from 1|1) to {n}(.|)",
                "print the numbers 1 to {n} in (Python|python)(.|)",
            ],
            n=n,
        )
        return f"loop{n}", q, f"for i in range(1, {n + 1}):\n    print(i)"
    q = ask(
        rng,
        [
            '(write|give me|show me) (Python|python) code (that prints|to print) ("{n}"|the text {n})(.|)',
            'print "{n}" in (Python|python)(.|)',
            'how (do i|to) print "{n}" in (Python|python)(?|)',
        ],
        n=name,
    )
    return f"print{name}", q, f'print("{name}")'


@task(0.8)
def c_code(rng):
    name = rng.choice((rng.choice(WORDS), made_up_word(rng), rng.choice(WORDS) + "_" + rng.choice(WORDS)))
    if rng.random() < 0.6:
        verb = rng.choice(list(BINARY))
        q = ask(
            rng,
            [
                "(write|give me|show me) a C function (called |named |){n} that {v} two (integers|numbers)(.|)",
                "C function {n} that {v} two integers",
                "in C: a function {n} that {v} two (integers|numbers)",
            ],
            n=name,
            v=verb,
        )
        return f"{name}{verb}", q, f"int {name}(int a, int b) {{\n    return a {BINARY[verb]} b;\n}}"
    what = rng.choice(list(UNARY)[:3])
    q = ask(
        rng,
        ["(write|give me|show me) a C function (called |named |){n} that {v}(.|)", "C function {n} that {v}"],
        n=name,
        v=what,
    )
    return f"{name}{what}", q, f"int {name}(int x) {{\n    return {UNARY[what][1]};\n}}"


@task(0.8)
def list_code(rng):
    xs = different_words(rng, rng.randint(2, 5)) if rng.random() < 0.6 else numbers(rng, rng.randint(2, 5))
    name = letters_word(rng)
    q = ask(
        rng,
        ["(write|make) a (Python|python) list (called |named |){n} with {xs}(.|)", "(Python|python) list {n}: {xs}"],
        n=name,
        xs=listed(rng, xs),
    )
    return f"{name}{xs}", q, f"{name} = {json.dumps(xs)}"


@task(0.8)
def read_code(rng):
    a, b = rng.randint(0, 50), rng.randint(0, 50)
    op = rng.choice("+-")
    a, b = (max(a, b), min(a, b)) if op == "-" else (a, b)
    x, y = rng.sample("abcdnmpqxyz", 2)
    code = rng.choice(
        [f"{x} = {a}; {y} = {b}; print({x} {op} {y})", f"print({a} {op} {b})", f"{x} = {a}; {x} {op}= {b}; print({x})"]
    )
    q = ask(
        rng,
        [
            "what does (this|this code|this program|it) print(:|?) {c}",
            "what is (printed|the output)(:|?) {c}",
            "(run|evaluate)(:| this:) {c}",
        ],
        c=code,
    )
    return f"{a}{op}{b}", q, str(a + b if op == "+" else a - b)
