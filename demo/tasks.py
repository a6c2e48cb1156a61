"""Small tasks with one right answer. Each is a function of a random generator that returns (operands, question, answer): `operands`
names the instance without its wording, so that an instance kept for the test is kept in every wording.

In questions "(a|b|)" stands for one of its alternatives; what is filled in ({...}) never is."""
import json

from words import (CITIES, DAYS, MONTHS, NAMES, WORDS, any_word, different_words, made_up_word, number_in_words)

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
        text = text[:start] + rng.choice(text[start + 1:end].split("|")) + text[end + 1:]
    return text


def ask(rng, templates, *places, **values):
    """One of the templates, its alternatives chosen, mostly with a capital, then {...} filled in: operands may hold any character."""
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


# ---- arithmetic --------------------------------------------------------------------------------------------------------

@task(3)
def add(rng):
    a, b = number(rng), number(rng)
    q = ask(rng, ["(what is|what's|calculate|compute|) {a} + {b}(?|)", "{a} + {b}( =| = ?|)", "{a}+{b}(=|?|)", "(add|please add) {a} and {b}(.|)", "what is {a} plus {b}(?|)",
                  "(what is|find) the sum of {a} and {b}(?|)", "how much is {a} (plus|+|and) {b}(?|)", "{a} plus {b}"], a=a, b=b)
    return f"{a}+{b}", q, str(a + b)


@task(3)
def subtract(rng):
    a, b = sorted((number(rng), number(rng)), reverse=True)
    q = ask(rng, ["(what is|what's|calculate|compute|) {a} - {b}(?|)", "{a} - {b}( =| = ?|)", "{a}-{b}(=|?|)", "(subtract|take) {b} from {a}(.|)", "what is {a} minus {b}(?|)",
                  "(what is|find) the difference (between|of) {a} and {b}(?|)", "how much is {a} (minus|-) {b}(?|)", "{a} minus {b}"], a=a, b=b)
    return f"{a}-{b}", q, str(a - b)


@task(0.8, tested=False)
def multiply(rng):
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    q = ask(rng, ["(what is|what's|calculate|compute|) {a} ({x}|times|multiplied by) {b}(?|)", "{a} {x} {b}( =|?|)", "multiply {a} (by|and) {b}(.|)", "how much is {a} times {b}(?|)",
                  "(what is|find) the product of {a} and {b}(?|)"], a=a, b=b, x=rng.choice("*x"))
    return f"{a}*{b}", q, str(a * b)


@task(0.6)
def add_three(rng):
    a, b, c = (rng.randint(0, 30) for _ in range(3))
    q = ask(rng, ["(what is|calculate|) {a} + {b} + {c}(?|)", "add {a}, {b} and {c}(.|)", "(what is|find) the sum of {a}, {b} and {c}(?|)"], a=a, b=b, c=c)
    return f"{a}+{b}+{c}", q, str(a + b + c)


@task()
def next_number(rng):
    a, up = number(rng), rng.random() < 0.5
    a = max(a, 1)
    q = ask(rng, (["(what|which) number (comes|is) (after|directly after) {a}(?|)", "what comes after {a}(?|)", "(what is|give me) the next number after {a}(?|)", "add one to {a}(.|)"] if up else
                  ["(what|which) number (comes|is) (before|directly before) {a}(?|)", "what comes before {a}(?|)", "(what is|give me) the number before {a}(?|)", "subtract one from {a}(.|)"]), a=a)
    return f"{a}{'+' if up else '-'}", q, str(a + 1 if up else a - 1)


@task()
def compare(rng):
    a, b = numbers(rng, 2, 0.4)
    larger = rng.random() < 0.5
    q = ask(rng, ["which (number |)is (larger|bigger|greater), {a} or {b}(?|)", "which is (larger|bigger|greater): {a} or {b}(?|)", "(what is|give me) the (larger|bigger) of {a} and {b}(?|)"] if larger else
            ["which (number |)is (smaller|less), {a} or {b}(?|)", "which is (smaller|less): {a} or {b}(?|)", "(what is|give me) the smaller of {a} and {b}(?|)"], a=a, b=b)
    return f"{a},{b},{larger}", q, str(max(a, b) if larger else min(a, b))


@task()
def is_larger(rng):
    a, b = numbers(rng, 2, 0.4)
    larger = rng.random() < 0.5
    q = ask(rng, ["is {a} (larger|bigger|greater|more) than {b}(?|)", "is {a} > {b}(?|)"] if larger else ["is {a} (smaller|less) than {b}(?|)", "is {a} < {b}(?|)"], a=a, b=b)
    return f"{a},{b},{larger}", q, "Yes" if (a > b) == larger else "No"


@task(0.8)
def parity(rng):
    a = number(rng, 0.7)
    if rng.random() < 0.6:
        return str(a), ask(rng, ["is {a} (even or odd|odd or even)(?|)", "(even or odd|odd or even): {a}", "is the number {a} (even or odd|odd or even)(?|)"], a=a), "Odd" if a % 2 else "Even"
    odd = rng.random() < 0.5
    return str(a), ask(rng, ["is {a} an odd number(?|)", "is {a} odd(?|)"] if odd else ["is {a} an even number(?|)", "is {a} even(?|)"], a=a), "Yes" if (a % 2 == 1) == odd else "No"


@task(1.2)
def largest(rng):
    xs = numbers(rng, rng.randint(3, 6))
    up = rng.random() < 0.5
    q = ask(rng, ["(what|which) is the (largest|biggest|greatest|highest) (number |)(of|in|among) {xs}(?|)", "(find|give me) the (largest|maximum|biggest) of {xs}(.|)", "(maximum|max|largest) of {xs}"] if up else
            ["(what|which) is the (smallest|lowest|least) (number |)(of|in|among) {xs}(?|)", "(find|give me) the (smallest|minimum) of {xs}(.|)", "(minimum|min|smallest) of {xs}"], xs=listed(rng, xs))
    return f"{xs}{up}", q, str(max(xs) if up else min(xs))


@task(2)
def sort_numbers(rng):
    xs = numbers(rng, rng.randint(3, 6), 0.1)
    up = rng.random() < 0.65
    q = ask(rng, ["sort( these numbers| the numbers| from small to large| in ascending order|): {xs}", "(sort|order) {xs}(.|)", "put {xs} in (ascending |)order(.|)", "sort {xs} (ascending|in ascending order|upwards)(.|)",
                  "(arrange|order) these numbers from (smallest to largest|small to large): {xs}"] if up else
            ["sort( these numbers| the numbers|) (from large to small|in descending order|descending|downwards): {xs}", "sort {xs} (descending|in descending order|in reverse order|from large to small)(.|)",
             "(arrange|order) these numbers from (largest to smallest|large to small): {xs}"], xs=listed(rng, xs))
    return f"{xs}{up}", q, ", ".join(map(str, sorted(xs, reverse=not up)))


@task()
def count_to(rng):
    n, step = rng.randint(3, 9), rng.choice((1, 1, 1, 2, 5, 10))
    a = rng.randint(0, 60)
    b = a + n * step
    if step == 1 and rng.random() < 0.3:
        q = ask(rng, ["count (down |backwards )from {b} to {a}(.|)", "count down: {b} to {a}"], a=a, b=b)
        return f"{b}..{a}", q, ", ".join(map(str, range(b, a - 1, -1)))
    by = "" if step == 1 else f" (by|in steps of) {step}"
    q = ask(rng, ["count from {a} to {b}" + by + "(.|)", "(list|write|give me) the numbers from {a} to {b}" + by + "(.|)"], a=a, b=b)
    return f"{a}..{b}/{step}", q, ", ".join(map(str, range(a, b + 1, step)))


@task()
def sequence(rng):
    a, step = rng.randint(0, 50), rng.choice((1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
    xs = [a + i * step for i in range(5)]
    if rng.random() < 0.25:
        a = rng.randint(5 * step, 5 * step + 50)
        xs = [a - i * step for i in range(5)]
    q = ask(rng, ["(continue|go on): {xs}", "what comes next: {xs}(?|, ...|)", "(what is|give me) the next number: {xs}(?|)", "(complete|continue) the (sequence|series)(:|) {xs}"], xs=", ".join(map(str, xs[:4])))
    return str(xs), q, str(xs[4])


@task(1.2)
def to_words(rng):
    a = number(rng, 0.6)
    q = ask(rng, ["(write|spell|say) {a} (in words|as words|in english)(.|)", "(how do you|how do i) write {a} in words(?|)", "{a} in words", "(spell|write) (out |)the number {a}( in words|)(.|)"], a=a)
    return f"{a}w", q, number_in_words(a)


@task(1.2)
def to_digits(rng):
    a = number(rng, 0.6)
    q = ask(rng, ["(write|give me) {a} (in digits|as digits|as a number)(.|)", "(which|what) number is {a}(?|)", "{a} in digits", "{a} as a number"], a=number_in_words(a))
    return f"{a}d", q, str(a)


# ---- lists -------------------------------------------------------------------------------------------------------------

@task(2)
def copy(rng):
    kind = rng.random()
    if kind < 0.5:
        text = " ".join(any_word(rng, 0.5) for _ in range(rng.randint(1, 8)))
    elif kind < 0.7:
        text = " ".join(str(number(rng)) for _ in range(rng.randint(1, 8)))
    else:
        text = " ".join(rng.choice((lambda: any_word(rng, 0.4), lambda: str(number(rng)), lambda: rng.choice(NAMES + CITIES), lambda: rng.choice("()[]{}+-*/=<>#@!?;:.,"),
                                    lambda: made_up_word(rng).upper()))() for _ in range(rng.randint(2, 7)))
    q = ask(rng, ["(repeat|copy|say|echo|write|print)(:| this:| exactly:| after me:| the following:) {t}", "(repeat|copy|echo) (this|the) (text|line)(:| exactly:) {t}", "(repeat|say|copy) \"{t}\"(.|)"], t=text)
    return text, q, text


@task()
def repeat(rng):
    w, n = any_word(rng, 0.4), rng.randint(2, 6)
    q = ask(rng, ["(repeat|write|say|print) (the word |)(\"{w}\"|{w}) {n} times(.|)", "(repeat|write|say) {n} times: {w}", "{n} times {w}(, please|)"], w=w, n=rng.choice((n, number_in_words(n))))
    return f"{w}*{n}", q, " ".join([w] * n)


@task(1.6)
def reverse_list(rng):
    xs = numbers(rng, rng.randint(3, 7)) if rng.random() < 0.35 else different_words(rng, rng.randint(3, 7))
    q = ask(rng, ["(reverse|turn around) (this list|the list|the order of|these|)(:|) {xs}", "(write|list|say|give me) (these |)(in reverse order|backwards|in the opposite order): {xs}", "(reverse|turn around): {xs}"],
            xs=", ".join(map(str, xs)) if rng.random() < 0.7 else " ".join(map(str, xs)))
    return str(xs), q, ", ".join(map(str, reversed(xs)))


@task(1.6)
def sort_words(rng):
    xs = different_words(rng, rng.randint(3, 5), 0.1)
    q = ask(rng, ["sort( these words| the words|)( alphabetically| by the alphabet|): {xs}", "(sort|put|arrange) {xs} (alphabetically|in alphabetical order)(.|)", "(alphabetical order|alphabetically): {xs}"], xs=listed(rng, xs))
    return str(xs), q, ", ".join(sorted(xs))


ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth"]


@task(1.2)
def nth_word(rng):
    xs = different_words(rng, rng.randint(3, 6)) if rng.random() < 0.7 else numbers(rng, rng.randint(3, 6))
    i = rng.randrange(len(xs) + 1)
    which = "last" if i == len(xs) else ORDINALS[i]
    q = ask(rng, ["(what|which) is the {which} (word|item|element|entry) (in|of)(:| the list:| this list:|) {xs}(?|)", "(give me|name|say) the {which} (word|item|element|one) of {xs}(.|)", "the {which} (word|item) of: {xs}"],
            which=which, xs=listed(rng, xs))
    return f"{xs}{which}", q, str(xs[-1 if which == "last" else i])


@task()
def count_items(rng):
    xs = different_words(rng, rng.randint(2, 9))
    q = ask(rng, ["how many (words|items) (are there|are) (in|in this list|in the list)(:|) {xs}(?|)", "count the (words|items|elements)( in|)(:|) {xs}", "how many (words|items): {xs}(?|)"], xs=listed(rng, xs))
    return str(xs), q, str(len(xs))


@task()
def contains(rng):
    xs = different_words(rng, rng.randint(3, 6))
    w = rng.choice(xs) if rng.random() < 0.5 else any_word(rng)
    q = ask(rng, ["is (\"{w}\"|{w}|the word {w}) in (this |the |)list(:|) {xs}(?|)", "does (this|the) list contain (\"{w}\"|{w})(:|?) {xs}", "is (\"{w}\"|{w}) one of {xs}(?|)"], w=w, xs=listed(rng, xs))
    return f"{xs}{w}", q, "Yes" if w in xs else "No"


@task()
def remove(rng):
    xs = different_words(rng, rng.randint(3, 6))
    w = rng.choice(xs)
    q = ask(rng, ["(remove|delete|drop) (\"{w}\"|{w}) from(:| this list:| the list:|) {xs}", "{xs}: (remove|delete) {w}", "(remove|leave out|drop) {w}: {xs}"], w=w, xs=", ".join(xs))
    return f"{xs}{w}", q, ", ".join(x for x in xs if x != w)


@task(0.8)
def remove_twice(rng):
    xs = different_words(rng, rng.randint(2, 4))
    for _ in range(rng.randint(1, 2)):
        xs.insert(rng.randint(1, len(xs)), rng.choice(xs))
    q = ask(rng, ["remove (duplicates|the duplicates|repeated words)( from|)(:|) {xs}", "(list|write) each word once: {xs}", "delete (what is double|the repetitions|duplicates): {xs}"], xs=", ".join(xs))
    return str(xs), q, ", ".join(dict.fromkeys(xs))


@task()
def replace(rng):
    xs = different_words(rng, rng.randint(3, 6))
    a, b = rng.choice(xs), any_word(rng)
    q = ask(rng, ["(replace|exchange) (\"{a}\"|{a}) (by|with) (\"{b}\"|{b}) in(:| this text:|) {xs}", "(replace|change) {a} (by|with|to) {b}: {xs}", "in \"{xs}\", (replace|change) {a} (with|to) {b}(.|)"], a=a, b=b, xs=" ".join(xs))
    return f"{xs}{a}{b}", q, " ".join(b if x == a else x for x in xs)


@task(0.8)
def join(rng):
    xs = different_words(rng, rng.randint(2, 5))
    name, sign = rng.choice((("a dash", "-"), ("dashes", "-"), ("a comma", ","), ("an underscore", "_"), ("underscores", "_"), ("a slash", "/"), ("a plus sign", "+"), ("a dot", "."), ("nothing", "")))
    q = ask(rng, ["join (these words|the words|) with {name}: {xs}", "(join|connect|glue) {xs} with {name}(.|)", "put {name} between (the words|these words): {xs}"], name=name, xs=" ".join(xs))
    return f"{xs}{sign}", q, sign.join(xs)


@task(0.8)
def split(rng):
    xs = different_words(rng, rng.randint(2, 5))
    sign = rng.choice("-,_/+.;:")
    q = ask(rng, ["(split|cut|break) (\"{t}\"|{t}) (into words|at each {s}|at {s})(.|)", "split at {s}: {t}"], t=sign.join(xs), s=f'"{sign}"')
    return f"{xs}{sign}", q, ", ".join(xs)


@task(0.8)
def one_a_line(rng):
    xs = different_words(rng, rng.randint(2, 6))
    numbered = rng.random() < 0.5
    q = ask(rng, ["(write|list|print) (as a numbered list|with numbers|in a numbered list): {xs}", "make a numbered list( of|): {xs}", "number these: {xs}"] if numbered else
            ["(write|list|print) (one a line|one per line|each on its own line|on separate lines): {xs}", "(one per line|one a line): {xs}"], xs=listed(rng, xs))
    return f"{xs}{numbered}", q, "\n".join(f"{i}. {x}" for i, x in enumerate(xs, 1)) if numbered else "\n".join(xs)


# ---- letters -----------------------------------------------------------------------------------------------------------

def letters_word(rng, lo=3, hi=7):
    while True:
        w = any_word(rng, 0.35)
        if lo <= len(w) <= hi:
            return w


@task(1.6)
def reverse_word(rng):
    w = letters_word(rng)
    q = ask(rng, ["(reverse|turn around) (the word |the letters of |)(\"{w}\"|{w})(.|)", "(write|spell|say) (the word |)(\"{w}\"|{w}) backwards(.|)", "what is (\"{w}\"|{w}) (backwards|reversed|spelled backwards)(?|)", "(\"{w}\"|{w}) backwards"], w=w)
    return w, q, w[::-1]


@task(1.2)
def spell(rng):
    w = letters_word(rng, 3, 9)
    q = ask(rng, ["spell (the word |)(\"{w}\"|{w})(.|)", "how (do you|do i|to) spell (\"{w}\"|{w})(?|)", "(list|give me|what are) the letters of (the word |)(\"{w}\"|{w})(.|)"], w=w)
    return w, q, "-".join(w)


@task(0.8)
def unspell(rng):
    w = letters_word(rng, 3, 9)
    s = rng.choice(("-", " ", ", "))
    q = ask(rng, ["(which|what) word is (spelled |){t}(?|)", "(join|put together) (the |these |)letters(:|) {t}", "{t} spells (what|which word)(?|)", "(put|join) {t} together(.|)"], t=s.join(w))
    return w, q, w


@task()
def letter_of(rng):
    w = letters_word(rng, 3, 8)
    i = rng.choice((0, 0, 1, 2, -1, -1))
    which = {0: "first", 1: "second", 2: "third", -1: "last"}[i]
    q = ask(rng, ["(what|which) is the {which} letter (of|in) (the word |)(\"{w}\"|{w})(?|)", "(give me|name) the {which} letter of (\"{w}\"|{w})(.|)", "{which} letter of {w}", "(what|which letter) does {w} (start|begin) with(?|)" if i == 0 else "{which} letter of the word {w}(?|)"], which=which, w=w)
    return f"{w}{which}", q, w[i]


@task()
def word_length(rng):
    w = letters_word(rng, 2, 9)
    q = ask(rng, ["how many letters does (the word |)(\"{w}\"|{w}) have(?|)", "how many letters has (the word |)(\"{w}\"|{w})(?|)", "how (long is|many letters are in) (the word |)(\"{w}\"|{w})(?|)", "count the letters (of|in) (\"{w}\"|{w})(.|)", "number of letters in {w}"], w=w)
    return w, q, str(len(w))


@task()
def count_letter(rng):
    w = letters_word(rng, 3, 9)
    c = rng.choice(w) if rng.random() < 0.8 else rng.choice("abdeilmnorst")
    q = ask(rng, ["how many (letters |)(\"{c}\"|{c}) are in (the word |)(\"{w}\"|{w})(?|)", "how (many times|often) does (the letter |)(\"{c}\"|{c}) (occur|appear) in (\"{w}\"|{w})(?|)",
                  "count the letter (\"{c}\"|{c}) in (\"{w}\"|{w})(.|)"], w=w, c=c)
    return f"{w}{c}", q, str(w.count(c))


@task()
def has_letter(rng):
    w = letters_word(rng, 3, 9)
    c = rng.choice(w) if rng.random() < 0.5 else rng.choice("abcdefghilmnoprstuw")
    q = ask(rng, ["does (the word |)(\"{w}\"|{w}) contain (the letter |)(\"{c}\"|{c})(?|)", "is (there a |the letter |)(\"{c}\"|{c}) in (the word |)(\"{w}\"|{w})(?|)"], w=w, c=c)
    return f"{w}{c}", q, "Yes" if c in w else "No"


@task(1.2)
def upper(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(rng, ["(write|put|convert|turn) (\"{t}\"|{t}) (in|to|into) (upper case|uppercase|capital letters|capitals|all caps)(.|)", "(uppercase|upper case|capital letters|all caps): {t}", "(in upper case|in capitals): {t}"], t=t)
    return t, q, t.upper()


@task(0.8)
def lower(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(rng, ["(write|put|convert|turn) (\"{t}\"|{t}) (in|to|into) (lower case|lowercase|small letters)(.|)", "(lowercase|lower case|small letters): {t}"], t=t.upper() if rng.random() < 0.7 else t.title())
    return t, q, t


@task(0.8)
def capitalize(rng):
    t = " ".join(any_word(rng) for _ in range(rng.randint(1, 4)))
    q = ask(rng, ["capitalize (each word|every word|the words)( of| in|)(:|) {t}", "(write|put) (\"{t}\"|{t}) in title case(.|)", "title case: {t}"], t=t)
    return t, q, t.title()


# ---- knowledge that is small and closed ------------------------------------------------------------------------------------

@task(0.5, tested=False)
def day(rng):
    i, after = rng.randrange(7), rng.random() < 0.6
    q = ask(rng, ["(what|which) day (comes|is) {w} {d}(?|)", "what comes {w} {d}(?|)", "the day {w} {d}"], w="after" if after else "before", d=DAYS[i])
    return f"{i}{after}", q, DAYS[(i + (1 if after else -1)) % 7]


@task(0.5, tested=False)
def month(rng):
    i, kind = rng.randrange(12), rng.random()
    if kind < 0.4:
        return f"{i}n", ask(rng, ["(what|which) is the {o} month( of the year|)(?|)", "(which|what) month is number {n}(?|)"], n=i + 1, o=(ORDINALS + ["seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"])[i]), MONTHS[i]
    after = kind < 0.75
    return f"{i}{after}", ask(rng, ["(what|which) month (comes|is) {w} {m}(?|)", "what comes {w} {m}(?|)"], w="after" if after else "before", m=MONTHS[i]), MONTHS[(i + (1 if after else -1)) % 12]


@task(0.5, tested=False)
def next_letter(rng):
    i, after = rng.randint(1, 24), rng.random() < 0.6
    c = "abcdefghijklmnopqrstuvwxyz"
    q = ask(rng, ["(what|which) letter (comes|is) {w} {c}(?|)", "what comes {w} (the letter |){c} in the alphabet(?|)", "the letter {w} {c}"], w="after" if after else "before", c=c[i])
    return f"{i}{after}", q, c[i + (1 if after else -1)]


OPPOSITES = """hot cold big small fast slow light dark wet dry new old open closed high low early late rich poor full empty hard soft up down
left right day night yes no in out first last long short strong weak happy sad good bad true false on off thick thin wide narrow""".split()


@task(0.5, tested=False)
def opposite(rng):
    i = rng.randrange(len(OPPOSITES))
    q = ask(rng, ["(what is|give me|name) the opposite of (\"{w}\"|{w})(?|)", "(the |)opposite of {w}(?|)"], w=OPPOSITES[i])
    return OPPOSITES[i], q, OPPOSITES[i ^ 1]


# ---- data and code -------------------------------------------------------------------------------------------------------

@task(1.2)
def make_json(rng):
    fields = rng.sample(["name", "age", "city", "color", "count"], rng.randint(1, 3))
    value = {"name": rng.choice(NAMES), "age": rng.randint(1, 99), "city": rng.choice(CITIES), "color": rng.choice("red blue green black white".split()), "count": rng.randint(0, 500)}
    obj = {k: value[k] for k in fields}
    q = ask(rng, ["(make|write|give me|create) (JSON|a JSON object|json)( with|:) {f}", "(as JSON|in JSON|to JSON): {f}", "convert to JSON: {f}"], f=rng.choice((", ", " and " if len(obj) == 2 else ", ")).join(f"{k} {v}" for k, v in obj.items()))
    return json.dumps(obj), q, json.dumps(obj)


@task(1.2)
def read_json(rng):
    fields = rng.sample(["name", "age", "city", "color", "count", "id"], rng.randint(2, 4))
    value = {"name": rng.choice(NAMES), "age": rng.randint(1, 99), "city": rng.choice(CITIES), "color": rng.choice("red blue green black white".split()), "count": rng.randint(0, 500), "id": rng.randint(100, 999)}
    obj, key = {k: value[k] for k in fields}, rng.choice(fields)
    q = ask(rng, ["what is (the value of |)(\"{k}\"|{k}) in {o}(?|)", "{o} (What is|Read|Give me) (the |){k}(?|)", "(read|extract|get) (\"{k}\"|{k}) from {o}"], k=key, o=json.dumps(obj))
    return json.dumps(obj) + key, q, str(obj[key])


@task(1.2)
def extract(rng):
    name, city, n = rng.choice(NAMES), rng.choice(CITIES), rng.randint(2, 99)
    text = rng.choice([f"{name} lives in {city} and is {n} years old.", f"{name} from {city} is {n}.", f"In {city}, {name} paid {n} dollars.", f"{name} went to {city} with {n} others.", f"On day {n}, {name} came to {city}."])
    what, answer = rng.choice((("name", name), ("city", city), ("number", str(n))))
    q = ask(rng, ["(find|extract|give me|what is) the {w} in(:|) {t}", "{t} (What is the|Give me the|Which) {w}(?|)", "(the |){w} in \"{t}\""], w=what, t=text)
    return f"{name}{city}{n}{what}", q, answer


BINARY = {"adds": "+", "subtracts": "-", "multiplies": "*"}
UNARY = {"doubles a number": ("x", "x * 2", "double"), "squares a number": ("x", "x * x", "square"), "negates a number": ("x", "-x", "negate"), "halves a number": ("x", "x / 2", "half")}


@task(1.2)
def python_code(rng):
    kind = rng.random()
    name = rng.choice((rng.choice(WORDS), made_up_word(rng), rng.choice(WORDS) + "_" + rng.choice(WORDS)))
    if kind < 0.45:
        verb = rng.choice(list(BINARY))
        q = ask(rng, ["(write|give me|show me) a (Python|python) function (called |named |){n} that {v} two numbers(.|)", "(Python|python) function {n}(:| that) {v} two numbers", "(Python|python): a function {n} that {v} two numbers"], n=name, v=verb)
        return f"{name}{verb}", q, f"def {name}(a, b):\n    return a {BINARY[verb]} b"
    if kind < 0.75:
        what = rng.choice(list(UNARY))
        q = ask(rng, ["(write|give me|show me) a (Python|python) function (called |named |){n} that {v}(.|)", "(Python|python) function {n} that {v}"], n=name, v=what)
        return f"{name}{what}", q, f"def {name}(x):\n    return {UNARY[what][1]}"
    n = rng.randint(2, 99)
    if kind < 0.88:
        q = ask(rng, ["(write|give me|show me) a (Python|python) loop (that prints|printing) the numbers (from 1|1) to {n}(.|)", "print the numbers 1 to {n} in (Python|python)(.|)"], n=n)
        return f"loop{n}", q, f"for i in range(1, {n + 1}):\n    print(i)"
    q = ask(rng, ["(write|give me|show me) (Python|python) code (that prints|to print) (\"{n}\"|the text {n})(.|)", "print \"{n}\" in (Python|python)(.|)", "how (do i|to) print \"{n}\" in (Python|python)(?|)"], n=name)
    return f"print{name}", q, f'print("{name}")'


@task(0.8)
def c_code(rng):
    name = rng.choice((rng.choice(WORDS), made_up_word(rng), rng.choice(WORDS) + "_" + rng.choice(WORDS)))
    if rng.random() < 0.6:
        verb = rng.choice(list(BINARY))
        q = ask(rng, ["(write|give me|show me) a C function (called |named |){n} that {v} two (integers|numbers)(.|)", "C function {n} that {v} two integers", "in C: a function {n} that {v} two (integers|numbers)"], n=name, v=verb)
        return f"{name}{verb}", q, f"int {name}(int a, int b) {{\n    return a {BINARY[verb]} b;\n}}"
    what = rng.choice(list(UNARY)[:3])
    q = ask(rng, ["(write|give me|show me) a C function (called |named |){n} that {v}(.|)", "C function {n} that {v}"], n=name, v=what)
    return f"{name}{what}", q, f"int {name}(int x) {{\n    return {UNARY[what][1]};\n}}"


@task(0.8)
def list_code(rng):
    xs = different_words(rng, rng.randint(2, 5)) if rng.random() < 0.6 else numbers(rng, rng.randint(2, 5))
    name = letters_word(rng)
    q = ask(rng, ["(write|make) a (Python|python) list (called |named |){n} with {xs}(.|)", "(Python|python) list {n}: {xs}"], n=name, xs=listed(rng, xs))
    return f"{name}{xs}", q, f"{name} = {json.dumps(xs)}"


@task(0.8)
def read_code(rng):
    a, b = rng.randint(0, 50), rng.randint(0, 50)
    op = rng.choice("+-")
    a, b = (max(a, b), min(a, b)) if op == "-" else (a, b)
    x, y = rng.sample("abcdnmpqxyz", 2)
    code = rng.choice([f"{x} = {a}; {y} = {b}; print({x} {op} {y})", f"print({a} {op} {b})", f"{x} = {a}; {x} {op}= {b}; print({x})"])
    q = ask(rng, ["what does (this|this code|this program|it) print(:|?) {c}", "what is (printed|the output)(:|?) {c}", "(run|evaluate)(:| this:) {c}"], c=code)
    return f"{a}{op}{b}", q, str(a + b if op == "+" else a - b)
