"""Tasks with the letters of words, and small closed knowledge: days, months, opposites."""

from task import ask, task
from tasks_lists import ORDINALS
from words import DAYS, MONTHS, any_word


def letters_word(rng, lo=3, hi=7):
    while True:
        w = any_word(rng, 0.35)
        if lo <= len(w) <= hi:
            return w


@task(1.6)
def reverse_word(rng):
    w = letters_word(rng)
    q = ask(
        rng,
        [
            '(reverse|turn around) (the word |the letters of |)("{w}"|{w})(.|)',
            '(write|spell|say) (the word |)("{w}"|{w}) backwards(.|)',
            'what is ("{w}"|{w}) (backwards|reversed|spelled backwards)(?|)',
            '("{w}"|{w}) backwards',
        ],
        w=w,
    )
    return w, q, w[::-1]


@task(1.2)
def spell(rng):
    w = letters_word(rng, 3, 9)
    q = ask(
        rng,
        [
            'spell (the word |)("{w}"|{w})(.|)',
            'how (do you|do i|to) spell ("{w}"|{w})(?|)',
            '(list|give me|what are) the letters of (the word |)("{w}"|{w})(.|)',
        ],
        w=w,
    )
    return w, q, "-".join(w)


@task(0.8)
def unspell(rng):
    w = letters_word(rng, 3, 9)
    s = rng.choice(("-", " ", ", "))
    q = ask(
        rng,
        [
            "(which|what) word is (spelled |){t}(?|)",
            "(join|put together) (the |these |)letters(:|) {t}",
            "{t} spells (what|which word)(?|)",
            "(put|join) {t} together(.|)",
        ],
        t=s.join(w),
    )
    return w, q, w


@task()
def letter_of(rng):
    w = letters_word(rng, 3, 8)
    i = rng.choice((0, 0, 1, 2, -1, -1))
    which = {0: "first", 1: "second", 2: "third", -1: "last"}[i]
    q = ask(
        rng,
        [
            '(what|which) is the {which} letter (of|in) (the word |)("{w}"|{w})(?|)',
            '(give me|name) the {which} letter of ("{w}"|{w})(.|)',
            "{which} letter of {w}",
            "(what|which letter) does {w} (start|begin) with(?|)" if i == 0 else "{which} letter of the word {w}(?|)",
        ],
        which=which,
        w=w,
    )
    return f"{w}{which}", q, w[i]


@task()
def word_length(rng):
    w = letters_word(rng, 2, 9)
    q = ask(
        rng,
        [
            'how many letters does (the word |)("{w}"|{w}) have(?|)',
            'how many letters has (the word |)("{w}"|{w})(?|)',
            'how (long is|many letters are in) (the word |)("{w}"|{w})(?|)',
            'count the letters (of|in) ("{w}"|{w})(.|)',
            "number of letters in {w}",
        ],
        w=w,
    )
    return w, q, str(len(w))


@task()
def count_letter(rng):
    w = letters_word(rng, 3, 9)
    c = rng.choice(w) if rng.random() < 0.8 else rng.choice("abdeilmnorst")
    q = ask(
        rng,
        [
            'how many (letters |)("{c}"|{c}) are in (the word |)("{w}"|{w})(?|)',
            'how (many times|often) does (the letter |)("{c}"|{c}) (occur|appear) in ("{w}"|{w})(?|)',
            'count the letter ("{c}"|{c}) in ("{w}"|{w})(.|)',
        ],
        w=w,
        c=c,
    )
    return f"{w}{c}", q, str(w.count(c))


@task()
def has_letter(rng):
    w = letters_word(rng, 3, 9)
    c = rng.choice(w) if rng.random() < 0.5 else rng.choice("abcdefghilmnoprstuw")
    q = ask(
        rng,
        [
            'does (the word |)("{w}"|{w}) contain (the letter |)("{c}"|{c})(?|)',
            'is (there a |the letter |)("{c}"|{c}) in (the word |)("{w}"|{w})(?|)',
        ],
        w=w,
        c=c,
    )
    return f"{w}{c}", q, "Yes" if c in w else "No"


@task(1.2)
def upper(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(
        rng,
        [
            '(write|put|convert|turn) ("{t}"|{t}) (in|to|into) (upper case|uppercase|capital letters|capitals|all caps)(.|)',
            "(uppercase|upper case|capital letters|all caps): {t}",
            "(in upper case|in capitals): {t}",
        ],
        t=t,
    )
    return t, q, t.upper()


@task(0.8)
def lower(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(
        rng,
        [
            '(write|put|convert|turn) ("{t}"|{t}) (in|to|into) (lower case|lowercase|small letters)(.|)',
            "(lowercase|lower case|small letters): {t}",
        ],
        t=t.upper() if rng.random() < 0.7 else t.title(),
    )
    return t, q, t


@task(0.8)
def capitalize(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(
        rng,
        [
            "capitalize (each word|every word|the words)( of| in|)(:|) {t}",
            '(write|put) ("{t}"|{t}) in title case(.|)',
            "title case: {t}",
        ],
        t=t,
    )
    return t, q, t.title()


# ---- knowledge that is small and closed ------------------------------------------------------------------------------------


@task(0.5, tested=False)
def day(rng):
    i, after = rng.randrange(7), rng.random() < 0.6
    q = ask(
        rng,
        ["(what|which) day (comes|is) {w} {d}(?|)", "what comes {w} {d}(?|)", "the day {w} {d}"],
        w="after" if after else "before",
        d=DAYS[i],
    )
    return f"{i}{after}", q, DAYS[(i + (1 if after else -1)) % 7]


@task(0.5, tested=False)
def month(rng):
    i, kind = rng.randrange(12), rng.random()
    if kind < 0.4:
        return (
            f"{i}n",
            ask(
                rng,
                ["(what|which) is the {o} month( of the year|)(?|)", "(which|what) month is number {n}(?|)"],
                n=i + 1,
                o=(ORDINALS + ["seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"])[i],
            ),
            MONTHS[i],
        )
    after = kind < 0.75
    return (
        f"{i}{after}",
        ask(
            rng,
            ["(what|which) month (comes|is) {w} {m}(?|)", "what comes {w} {m}(?|)"],
            w="after" if after else "before",
            m=MONTHS[i],
        ),
        MONTHS[(i + (1 if after else -1)) % 12],
    )


@task(0.5, tested=False)
def next_letter(rng):
    i, after = rng.randint(1, 24), rng.random() < 0.6
    c = "abcdefghijklmnopqrstuvwxyz"
    q = ask(
        rng,
        [
            "(what|which) letter (comes|is) {w} {c}(?|)",
            "what comes {w} (the letter |){c} in the alphabet(?|)",
            "the letter {w} {c}",
        ],
        w="after" if after else "before",
        c=c[i],
    )
    return f"{i}{after}", q, c[i + (1 if after else -1)]


OPPOSITES = """hot cold big small fast slow light dark wet dry new old open closed high low early late rich poor full empty
hard soft up down left right day night yes no in out first last long short strong weak happy sad good bad true false on off
thick thin wide narrow""".split()


@task(0.5, tested=False)
def opposite(rng):
    i = rng.randrange(len(OPPOSITES))
    q = ask(rng, ['(what is|give me|name) the opposite of ("{w}"|{w})(?|)', "(the |)opposite of {w}(?|)"], w=OPPOSITES[i])
    return OPPOSITES[i], q, OPPOSITES[i ^ 1]
