"""Tasks with lists: copying, sorting, reversing, counting, changing."""

from task import ask, listed, number, numbers, task
from words import CITIES, NAMES, any_word, different_words, made_up_word, number_in_words


@task(2)
def copy(rng):
    kind = rng.random()
    if kind < 0.5:
        text = " ".join(any_word(rng, 0.5) for _ in range(rng.randint(1, 8)))
    elif kind < 0.7:
        text = " ".join(str(number(rng)) for _ in range(rng.randint(1, 8)))
    else:
        text = " ".join(
            rng.choice(
                (
                    lambda: any_word(rng, 0.4),
                    lambda: str(number(rng)),
                    lambda: rng.choice(NAMES + CITIES),
                    lambda: rng.choice("()[]{}+-*/=<>#@!?;:.,"),
                    lambda: made_up_word(rng).upper(),
                )
            )()
            for _ in range(rng.randint(2, 7))
        )
    q = ask(
        rng,
        [
            "(repeat|copy|say|echo|write|print)(:| this:| exactly:| after me:| the following:) {t}",
            "(repeat|copy|echo) (this|the) (text|line)(:| exactly:) {t}",
            '(repeat|say|copy) "{t}"(.|)',
        ],
        t=text,
    )
    return text, q, text


@task()
def repeat(rng):
    w, n = any_word(rng, 0.4), rng.randint(2, 6)
    q = ask(
        rng,
        [
            '(repeat|write|say|print) (the word |)("{w}"|{w}) {n} times(.|)',
            "(repeat|write|say) {n} times: {w}",
            "{n} times {w}(, please|)",
        ],
        w=w,
        n=rng.choice((n, number_in_words(n))),
    )
    return f"{w}*{n}", q, " ".join([w] * n)


@task(1.6)
def reverse_list(rng):
    xs = numbers(rng, rng.randint(3, 7)) if rng.random() < 0.35 else different_words(rng, rng.randint(3, 7))
    q = ask(
        rng,
        [
            "(reverse|turn around) (this list|the list|the order of|these|)(:|) {xs}",
            "(write|list|say|give me) (these |)(in reverse order|backwards|in the opposite order): {xs}",
            "(reverse|turn around): {xs}",
        ],
        xs=", ".join(map(str, xs)) if rng.random() < 0.7 else " ".join(map(str, xs)),
    )
    return str(xs), q, ", ".join(map(str, reversed(xs)))


@task(1.6)
def sort_words(rng):
    xs = different_words(rng, rng.randint(3, 5), 0.1)
    q = ask(
        rng,
        [
            "sort( these words| the words|)( alphabetically| by the alphabet|): {xs}",
            "(sort|put|arrange) {xs} (alphabetically|in alphabetical order)(.|)",
            "(alphabetical order|alphabetically): {xs}",
        ],
        xs=listed(rng, xs),
    )
    return str(xs), q, ", ".join(sorted(xs))


ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]


@task(1.2)
def nth_word(rng):
    xs = different_words(rng, rng.randint(3, 6)) if rng.random() < 0.7 else numbers(rng, rng.randint(3, 6))
    i = rng.randrange(len(xs) + 1)
    which = "last" if i == len(xs) else ORDINALS[i]
    q = ask(
        rng,
        [
            "(what|which) is the {which} (word|item|element|entry) (in|of)(:| the list:| this list:|) {xs}(?|)",
            "(give me|name|say) the {which} (word|item|element|one) of {xs}(.|)",
            "the {which} (word|item) of: {xs}",
        ],
        which=which,
        xs=listed(rng, xs),
    )
    return f"{xs}{which}", q, str(xs[-1 if which == "last" else i])


@task()
def count_items(rng):
    xs = different_words(rng, rng.randint(2, 9))
    q = ask(
        rng,
        [
            "how many (words|items) (are there|are) (in|in this list|in the list)(:|) {xs}(?|)",
            "count the (words|items|elements)( in|)(:|) {xs}",
            "how many (words|items): {xs}(?|)",
        ],
        xs=listed(rng, xs),
    )
    return str(xs), q, str(len(xs))


@task()
def contains(rng):
    xs = different_words(rng, rng.randint(3, 6))
    w = rng.choice(xs) if rng.random() < 0.5 else any_word(rng)
    q = ask(
        rng,
        [
            'is ("{w}"|{w}|the word {w}) in (this |the |)list(:|) {xs}(?|)',
            'does (this|the) list contain ("{w}"|{w})(:|?) {xs}',
            'is ("{w}"|{w}) one of {xs}(?|)',
        ],
        w=w,
        xs=listed(rng, xs),
    )
    return f"{xs}{w}", q, "Yes" if w in xs else "No"


@task()
def remove(rng):
    xs = different_words(rng, rng.randint(3, 6))
    w = rng.choice(xs)
    q = ask(
        rng,
        [
            '(remove|delete|drop) ("{w}"|{w}) from(:| this list:| the list:|) {xs}',
            "{xs}: (remove|delete) {w}",
            "(remove|leave out|drop) {w}: {xs}",
        ],
        w=w,
        xs=", ".join(xs),
    )
    return f"{xs}{w}", q, ", ".join(x for x in xs if x != w)


@task(0.8)
def remove_twice(rng):
    xs = different_words(rng, rng.randint(2, 4))
    for _ in range(rng.randint(1, 2)):
        xs.insert(rng.randint(1, len(xs)), rng.choice(xs))
    q = ask(
        rng,
        [
            "remove (duplicates|the duplicates|repeated words)( from|)(:|) {xs}",
            "(list|write) each word once: {xs}",
            "delete (what is double|the repetitions|duplicates): {xs}",
        ],
        xs=", ".join(xs),
    )
    return str(xs), q, ", ".join(dict.fromkeys(xs))


@task()
def replace(rng):
    xs = different_words(rng, rng.randint(3, 6))
    a, b = rng.choice(xs), any_word(rng)
    q = ask(
        rng,
        [
            '(replace|exchange) ("{a}"|{a}) (by|with) ("{b}"|{b}) in(:| this text:|) {xs}',
            "(replace|change) {a} (by|with|to) {b}: {xs}",
            'in "{xs}", (replace|change) {a} (with|to) {b}(.|)',
        ],
        a=a,
        b=b,
        xs=" ".join(xs),
    )
    return f"{xs}{a}{b}", q, " ".join(b if x == a else x for x in xs)


@task(0.8)
def join(rng):
    xs = different_words(rng, rng.randint(2, 5))
    name, sign = rng.choice(
        (
            ("a dash", "-"),
            ("dashes", "-"),
            ("a comma", ","),
            ("an underscore", "_"),
            ("underscores", "_"),
            ("a slash", "/"),
            ("a plus sign", "+"),
            ("a dot", "."),
            ("nothing", ""),
        )
    )
    q = ask(
        rng,
        [
            "join (these words|the words|) with {name}: {xs}",
            "(join|connect|glue) {xs} with {name}(.|)",
            "put {name} between (the words|these words): {xs}",
        ],
        name=name,
        xs=" ".join(xs),
    )
    return f"{xs}{sign}", q, sign.join(xs)


@task(0.8)
def split(rng):
    xs = different_words(rng, rng.randint(2, 5))
    sign = rng.choice("-,_/+.;:")
    q = ask(
        rng,
        ['(split|cut|break) ("{t}"|{t}) (into words|at each {s}|at {s})(.|)', "split at {s}: {t}"],
        t=sign.join(xs),
        s=f'"{sign}"',
    )
    return f"{xs}{sign}", q, ", ".join(xs)


@task(0.8)
def one_a_line(rng):
    xs = different_words(rng, rng.randint(2, 6))
    numbered = rng.random() < 0.5
    q = ask(
        rng,
        (
            [
                "(write|list|print) (as a numbered list|with numbers|in a numbered list): {xs}",
                "make a numbered list( of|): {xs}",
                "number these: {xs}",
            ]
            if numbered
            else [
                "(write|list|print) (one a line|one per line|each on its own line|on separate lines): {xs}",
                "(one per line|one a line): {xs}",
            ]
        ),
        xs=listed(rng, xs),
    )
    return f"{xs}{numbered}", q, "\n".join(f"{i}. {x}" for i, x in enumerate(xs, 1)) if numbered else "\n".join(xs)
