"""Tasks with numbers."""

from task import ask, listed, number, numbers, task
from words import number_in_words


@task(3)
def add(rng):
    a, b = number(rng), number(rng)
    q = ask(
        rng,
        [
            "(what is|what's|calculate|compute|) {a} + {b}(?|)",
            "{a} + {b}( =| = ?|)",
            "{a}+{b}(=|?|)",
            "(add|please add) {a} and {b}(.|)",
            "what is {a} plus {b}(?|)",
            "(what is|find) the sum of {a} and {b}(?|)",
            "how much is {a} (plus|+|and) {b}(?|)",
            "{a} plus {b}",
        ],
        a=a,
        b=b,
    )
    return f"{a}+{b}", q, str(a + b)


@task(3)
def subtract(rng):
    a, b = sorted((number(rng), number(rng)), reverse=True)
    q = ask(
        rng,
        [
            "(what is|what's|calculate|compute|) {a} - {b}(?|)",
            "{a} - {b}( =| = ?|)",
            "{a}-{b}(=|?|)",
            "(subtract|take) {b} from {a}(.|)",
            "what is {a} minus {b}(?|)",
            "(what is|find) the difference (between|of) {a} and {b}(?|)",
            "how much is {a} (minus|-) {b}(?|)",
            "{a} minus {b}",
        ],
        a=a,
        b=b,
    )
    return f"{a}-{b}", q, str(a - b)


@task(0.8, tested=False)
def multiply(rng):
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    q = ask(
        rng,
        [
            "(what is|what's|calculate|compute|) {a} ({x}|times|multiplied by) {b}(?|)",
            "{a} {x} {b}( =|?|)",
            "multiply {a} (by|and) {b}(.|)",
            "how much is {a} times {b}(?|)",
            "(what is|find) the product of {a} and {b}(?|)",
        ],
        a=a,
        b=b,
        x=rng.choice("*x"),
    )
    return f"{a}*{b}", q, str(a * b)


@task(0.6)
def add_three(rng):
    a, b, c = (rng.randint(0, 30) for _ in range(3))
    q = ask(
        rng,
        [
            "(what is|calculate|) {a} + {b} + {c}(?|)",
            "add {a}, {b} and {c}(.|)",
            "(what is|find) the sum of {a}, {b} and {c}(?|)",
        ],
        a=a,
        b=b,
        c=c,
    )
    return f"{a}+{b}+{c}", q, str(a + b + c)


@task()
def next_number(rng):
    a, up = number(rng), rng.random() < 0.5
    a = max(a, 1)
    q = ask(
        rng,
        (
            [
                "(what|which) number (comes|is) (after|directly after) {a}(?|)",
                "what comes after {a}(?|)",
                "(what is|give me) the next number after {a}(?|)",
                "add one to {a}(.|)",
            ]
            if up
            else [
                "(what|which) number (comes|is) (before|directly before) {a}(?|)",
                "what comes before {a}(?|)",
                "(what is|give me) the number before {a}(?|)",
                "subtract one from {a}(.|)",
            ]
        ),
        a=a,
    )
    return f"{a}{'+' if up else '-'}", q, str(a + 1 if up else a - 1)


@task()
def compare(rng):
    a, b = numbers(rng, 2, 0.4)
    larger = rng.random() < 0.5
    q = ask(
        rng,
        (
            [
                "which (number |)is (larger|bigger|greater), {a} or {b}(?|)",
                "which is (larger|bigger|greater): {a} or {b}(?|)",
                "(what is|give me) the (larger|bigger) of {a} and {b}(?|)",
            ]
            if larger
            else [
                "which (number |)is (smaller|less), {a} or {b}(?|)",
                "which is (smaller|less): {a} or {b}(?|)",
                "(what is|give me) the smaller of {a} and {b}(?|)",
            ]
        ),
        a=a,
        b=b,
    )
    return f"{a},{b},{larger}", q, str(max(a, b) if larger else min(a, b))


@task()
def is_larger(rng):
    a, b = numbers(rng, 2, 0.4)
    larger = rng.random() < 0.5
    q = ask(
        rng,
        (
            ["is {a} (larger|bigger|greater|more) than {b}(?|)", "is {a} > {b}(?|)"]
            if larger
            else ["is {a} (smaller|less) than {b}(?|)", "is {a} < {b}(?|)"]
        ),
        a=a,
        b=b,
    )
    return f"{a},{b},{larger}", q, "Yes" if (a > b) == larger else "No"


@task(0.8)
def parity(rng):
    a = number(rng, 0.7)
    if rng.random() < 0.6:
        return (
            str(a),
            ask(
                rng,
                [
                    "is {a} (even or odd|odd or even)(?|)",
                    "(even or odd|odd or even): {a}",
                    "is the number {a} (even or odd|odd or even)(?|)",
                ],
                a=a,
            ),
            "Odd" if a % 2 else "Even",
        )
    odd = rng.random() < 0.5
    return (
        str(a),
        ask(
            rng,
            ["is {a} an odd number(?|)", "is {a} odd(?|)"] if odd else ["is {a} an even number(?|)", "is {a} even(?|)"],
            a=a,
        ),
        "Yes" if (a % 2 == 1) == odd else "No",
    )


@task(1.2)
def largest(rng):
    xs = numbers(rng, rng.randint(3, 6))
    up = rng.random() < 0.5
    q = ask(
        rng,
        (
            [
                "(what|which) is the (largest|biggest|greatest|highest) (number |)(of|in|among) {xs}(?|)",
                "(find|give me) the (largest|maximum|biggest) of {xs}(.|)",
                "(maximum|max|largest) of {xs}",
            ]
            if up
            else [
                "(what|which) is the (smallest|lowest|least) (number |)(of|in|among) {xs}(?|)",
                "(find|give me) the (smallest|minimum) of {xs}(.|)",
                "(minimum|min|smallest) of {xs}",
            ]
        ),
        xs=listed(rng, xs),
    )
    return f"{xs}{up}", q, str(max(xs) if up else min(xs))


@task(2)
def sort_numbers(rng):
    xs = numbers(rng, rng.randint(3, 6), 0.1)
    up = rng.random() < 0.65
    q = ask(
        rng,
        (
            [
                "sort( these numbers| the numbers| from small to large| in ascending order|): {xs}",
                "(sort|order) {xs}(.|)",
                "put {xs} in (ascending |)order(.|)",
                "sort {xs} (ascending|in ascending order|upwards)(.|)",
                "(arrange|order) these numbers from (smallest to largest|small to large): {xs}",
            ]
            if up
            else [
                "sort( these numbers| the numbers|) (from large to small|in descending order|descending|downwards): {xs}",
                "sort {xs} (descending|in descending order|in reverse order|from large to small)(.|)",
                "(arrange|order) these numbers from (largest to smallest|large to small): {xs}",
            ]
        ),
        xs=listed(rng, xs),
    )
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
    q = ask(
        rng, ["count from {a} to {b}" + by + "(.|)", "(list|write|give me) the numbers from {a} to {b}" + by + "(.|)"], a=a, b=b
    )
    return f"{a}..{b}/{step}", q, ", ".join(map(str, range(a, b + 1, step)))


@task()
def sequence(rng):
    a, step = rng.randint(0, 50), rng.choice((1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
    xs = [a + i * step for i in range(5)]
    if rng.random() < 0.25:
        a = rng.randint(5 * step, 5 * step + 50)
        xs = [a - i * step for i in range(5)]
    q = ask(
        rng,
        [
            "(continue|go on): {xs}",
            "what comes next: {xs}(?|, ...|)",
            "(what is|give me) the next number: {xs}(?|)",
            "(complete|continue) the (sequence|series)(:|) {xs}",
        ],
        xs=", ".join(map(str, xs[:4])),
    )
    return str(xs), q, str(xs[4])


@task(1.2)
def to_words(rng):
    a = number(rng, 0.6)
    q = ask(
        rng,
        [
            "(write|spell|say) {a} (in words|as words|in english)(.|)",
            "(how do you|how do i) write {a} in words(?|)",
            "{a} in words",
            "(spell|write) (out |)the number {a}( in words|)(.|)",
        ],
        a=a,
    )
    return f"{a}w", q, number_in_words(a)


@task(1.2)
def to_digits(rng):
    a = number(rng, 0.6)
    q = ask(
        rng,
        [
            "(write|give me) {a} (in digits|as digits|as a number)(.|)",
            "(which|what) number is {a}(?|)",
            "{a} in digits",
            "{a} as a number",
        ],
        a=number_in_words(a),
    )
    return f"{a}d", q, str(a)
