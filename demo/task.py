"""Small tasks with one right answer. Each is a function of a random generator that returns (operands, question, answer):
`operands` names the instance without its wording, so that an instance kept for the test is kept in every wording.

In questions "(a|b|)" stands for one of its alternatives; what is filled in ({...}) never is."""

TASKS = {}


def task(weight=1.0, tested=True):
    """`weight`: how often, relative to the others. Not `tested`: too few instances to keep some for the test."""

    def add(make):
        TASKS[make.__name__] = (make, weight, tested)
        return make

    return add


def expand(rng, text):
    """Chooses an alternative of every "(a|b|)"; groups nest."""
    while ")" in text:
        end = text.index(")")
        start = text.rindex("(", 0, end)
        text = text[:start] + rng.choice(text[start + 1 : end].split("|")) + text[end + 1 :]
    return text


def ask(rng, templates, *places, **values):
    """One of the templates, its alternatives chosen, mostly with a capital, then {...} filled in: operands may hold any
    character."""
    text = expand(rng, rng.choice(templates)).strip()
    if text[0].isalpha() and rng.random() < 0.7:
        text = text[0].upper() + text[1:]
    return text.format(*places, **values)


def listed(rng, items):
    """Items as people write them: with commas, spaces, "and"."""
    items = [str(i) for i in items]
    style = rng.random()
    if style < 0.55:
        return ", ".join(items)
    if style < 0.8 or len(items) < 2:
        return " ".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]


def number(rng, hundreds=0.35):
    return rng.randint(100, 999) if rng.random() < hundreds else rng.randint(0, 99)


def numbers(rng, n, hundreds=0.2):
    out = []
    while len(out) < n:
        x = number(rng, hundreds)
        if x not in out:
            out.append(x)
    return out
