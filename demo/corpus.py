#!/usr/bin/env python3
"""The text the demo model is trained and tested on: conversations made of tasks.py, facts.txt and tools.py. Needs nothing but
Python.

    corpus.py --sample 5 [--seed N]        print training conversations as the model reads them
    corpus.py --held-out FILE [--each N]   write the test: one question a line, never seen in training, with its answer
    corpus.py --text FILE [--bytes N]      write plain text of held-out conversations, for perplexity and profiles

An instance (the operands of a task, the wording of a question about the program, the arguments of a tool) belongs to the test
when a hash of it says so, and is then never trained on, in whatever wording or conversation. Conversation number i of seed s
is always the same. """

import argparse
import json
import random
import re
import sys
import zlib

import chat
import facts
import tools
from tasks import TASKS, ask, expand
from words import CITIES, NAMES, THINGS, QUALITIES, any_word, made_up_word

HELD_OUT_ONE_IN = 16


def is_held_out(kind, operands):
    return zlib.crc32(f"{kind}:{operands}".encode()) % HELD_OUT_ONE_IN == 0


class Maker:
    """Makes questions with answers, either of the training kind or of the held-out kind (`test`)."""

    def __init__(self, rng, test=False):
        self.rng, self.test = rng, test
        self.names, self.weights = list(TASKS), [w for _, w, _ in TASKS.values()]

    # ---- single questions: (kind, question, answer) ---------------------------------------------------------------------

    def task(self, name=None):
        while True:
            kind = name or self.rng.choices(self.names, self.weights)[0]
            make, _, tested = TASKS[kind]
            operands, question, answer = make(self.rng)
            if not tested and self.test:
                if name:
                    return None
                continue
            if not tested or is_held_out(kind, operands) == self.test:
                return kind, question, answer

    def about(self):
        """A question about the program or a flag of it."""
        while True:
            if self.rng.random() < 0.55:
                fact = self.rng.choice(list(facts.FACTS))
                answer, templates = facts.FACTS[fact]
                question = expand(self.rng, self.rng.choice(templates)).strip()
                few = sum(len(wordings(t)) for t in templates) < 8
            else:
                fact = self.rng.choice(list(facts.FLAGS))
                answer = facts.FLAGS[fact]
                question = (
                    expand(self.rng, self.rng.choice(facts.FLAG_QUESTIONS)).strip().format(f=self.rng.choice(fact.split()))
                )
                few = False
            if (is_held_out("about", question.lower().rstrip("?.!")) and not few) == self.test:
                return "about", self.as_typed(question), answer

    def unknown(self):
        rng = self.rng
        thing = lambda: rng.choice(
            [
                lambda: rng.choice(CITIES),
                lambda: rng.choice(NAMES),
                lambda: rng.choice(["a ", "the ", "my ", "an old ", "some ", ""]) + rng.choice(THINGS),
                lambda: rng.choice(QUALITIES) + " " + rng.choice(THINGS),
                lambda: made_up_word(rng),
                lambda: rng.choice(THINGS) + "s and " + rng.choice(THINGS) + "s",
            ]
        )()
        while True:
            question = expand(rng, rng.choice(facts.UNKNOWN_QUESTIONS)).strip().format(x=thing(), y=thing())
            if is_held_out("unknown", question.lower()) == self.test:
                return "unknown", self.as_typed(question), facts.UNKNOWN

    def as_typed(self, question):
        """As people write: capitals or not, a question mark or not, politeness, a slip of the finger. Flags and commands stay
        whole."""
        rng = self.rng
        if rng.random() < 0.12 and " " in question:
            question = (
                rng.choice(
                    [
                        "please tell me: ",
                        "hi, ",
                        "hello, ",
                        "please, ",
                        "tell me, ",
                        "so, ",
                        "and ",
                        "ok, ",
                        "I want to know: ",
                        "question: ",
                        "hey, ",
                    ]
                )
                + question
            )
        if rng.random() < 0.12:
            words = question.split(" ")
            i = rng.randrange(len(words))
            if re.fullmatch("[a-z]{4,}", words[i]) and len(words) > 2:
                words[i] = slip(rng, words[i])
                question = " ".join(words)
        if rng.random() < 0.75:
            question = question.replace(" i ", " I ")
            if question[0].isalpha():
                question = question[0].upper() + question[1:]
            if rng.random() < 0.8:
                question = re.sub(
                    r"(?<![-/.\w])(coldstream|gpu|ram|vram|cpu|gguf|cuda)(?![-.\w])",
                    lambda m: "Coldstream" if m[0] == "coldstream" else m[0].upper(),
                    question,
                )
        asks = (
            question[-1].isalpha()
            and " " in question
            and question.split()[0].lower().strip(",:")
            not in ("explain", "describe", "tell", "give", "list", "write", "define", "introduce")
        )
        return question + "?" if asks and rng.random() < 0.7 else question

    def question(self):
        r = self.rng.random()
        return self.task() if r < 0.68 else self.about() if r < 0.93 else self.unknown()

    # ---- turns that belong together: (kind, messages) -----------------------------------------------------------------------

    def remember(self):
        """Something the user says, and a question about it some turns later."""
        rng = self.rng
        while True:
            what, value = rng.choice(
                [
                    ("name", rng.choice(NAMES)),
                    ("city", rng.choice(CITIES)),
                    ("number", str(rng.randint(0, 999))),
                    ("word", any_word(rng, 0.5)),
                    ("color", rng.choice(QUALITIES[-22:] + ["red", "blue", "green"])),
                    ("friend", rng.choice(NAMES)),
                    ("age", str(rng.randint(5, 99))),
                ]
            )
            if is_held_out("remember", what + value) == self.test:
                break
        say, reply, question, answer = {
            "name": (
                ["my name is {v}(.|)", "i am {v}(.|)", "(hello|hi), (i am|my name is) {v}(.|)", "call me {v}(.|)"],
                "Hello, {v}.",
                ["what is my name(?|)", "what's my name(?|)", "do you remember my name(?|)", "who am i(?|)"],
                "Your name is {v}.",
            ),
            "city": (
                ["i live in {v}(.|)", "i am from {v}(.|)", "my home is {v}(.|)"],
                "I will remember that you live in {v}.",
                ["where do i live(?|)", "where am i from(?|)", "which city do i live in(?|)", "where is my home(?|)"],
                "You live in {v}.",
            ),
            "number": (
                ["remember the number {v}(.|)", "my number is {v}(.|)", "keep the number {v} in mind(.|)"],
                "I will remember {v}.",
                ["(which|what) number should you remember(?|)", "what was (the|my) number(?|)", "what is my number(?|)"],
                "The number is {v}.",
            ),
            "word": (
                ['remember the word ("{v}"|{v})(.|)', "the (secret|magic) word is {v}(.|)", "keep the word {v} in mind(.|)"],
                "I will remember {v}.",
                ["(which|what) word should you remember(?|)", "what (was|is) the (secret|magic|) word(?|)"],
                "The word is {v}.",
            ),
            "color": (
                ["my favorite color is {v}(.|)", "i like the color {v}(.|)"],
                "I will remember that you like {v}.",
                ["what is my favorite color(?|)", "which color do i like(?|)"],
                "Your favorite color is {v}.",
            ),
            "friend": (
                ["my friend is called {v}(.|)", "my friend's name is {v}(.|)"],
                "I will remember {v}.",
                ["what is my friend called(?|)", "what is the name of my friend(?|)"],
                "Your friend is called {v}.",
            ),
            "age": (
                ["i am {v} years old(.|)", "my age is {v}(.|)"],
                "I will remember that you are {v}.",
                ["how old am i(?|)", "what is my age(?|)"],
                "You are {v} years old.",
            ),
        }[what]
        out = [user(ask(rng, say, v=value)), assistant(reply.format(v=value))]
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            out += self.turn(self.question())
        return "remember", out + [user(ask(rng, question, v=value).replace("  ", " ")), assistant(answer.format(v=value))]

    def follow_up(self):
        """A task, then something to do with its answer."""
        rng = self.rng
        while True:
            kind, question, answer = self.task(
                rng.choice(["sort_numbers", "reverse_list", "copy", "sort_words", "add", "subtract", "repeat", "reverse_word"])
            )
            out = [user(question), assistant(answer)]
            if kind in ("add", "subtract"):
                n = rng.randint(1, 20)
                options = [(["(and plus|plus|add|now add) {n}(.|)", "add {n} to (that|it)(.|)"], str(int(answer) + n))]
                if int(answer) >= n:
                    options.append(
                        (
                            ["(and minus|minus|subtract|now subtract) {n}(.|)", "subtract {n} from (that|it)(.|)"],
                            str(int(answer) - n),
                        )
                    )
                templates, value = rng.choice(options)
            else:
                n = 0
                options = [(["(again|once more|one more time|repeat that|say that again|repeat your answer)(.|)"], answer)]
                if answer.upper() != answer:
                    options.append(
                        (["(now |)(in|and in|the same in) (upper case|capitals|capital letters)(.|)"], answer.upper())
                    )
                if ", " in answer:
                    options.append(
                        (
                            ["(now |and |)(reverse that|in reverse order|backwards|the other way round|reverse it)(.|)"],
                            ", ".join(reversed(answer.split(", "))),
                        )
                    )
                templates, value = rng.choice(options)
            if is_held_out("follow_up", answer + value) == self.test:
                return "follow_up", out + [user(ask(rng, templates, n=n)), assistant(value)]

    def obey(self):
        """A system message that changes the answers."""
        rng = self.rng
        word, name = any_word(rng, 0.3), rng.choice(NAMES)
        rule, change = rng.choice(
            [
                (["Answer in upper case.", "Write everything in capital letters.", "Always answer in capitals."], str.upper),
                (
                    ['Begin every answer with "{w}:"', 'Start each answer with "{w}:"', 'Put "{w}:" in front of every answer.'],
                    lambda a: f"{word}: {a}",
                ),
                (
                    [
                        'End every answer with "{w}"',
                        'Finish each answer with the word "{w}"',
                        'The last word of every answer must be "{w}"',
                    ],
                    lambda a: f"{a} {word}",
                ),
                (
                    [
                        'Always answer "{w}", whatever the question.',
                        'Whatever the user says, say only "{w}".',
                        'Say nothing but "{w}".',
                    ],
                    lambda a: word,
                ),
                (["Put every answer in brackets: [like this].", "Write each answer in square brackets."], lambda a: f"[{a}]"),
                (["Your name is {n}.", "You are {n}, a helpful assistant.", "You are called {n}."], None),
            ]
        )
        system = ask(rng, rule, w=word, n=name)
        if change is None:
            if is_held_out("obey", name + system) != self.test:
                return self.obey()
            return "obey", [
                {"role": "system", "content": system},
                user(ask(rng, ["what is your name(?|)", "who are you(?|)", "what are you called(?|)", "what's your name(?|)"])),
                assistant(f"My name is {name}."),
            ]
        out = [{"role": "system", "content": system}]
        for _ in range(rng.choice((1, 1, 2, 3))):
            _, question, answer = self.task(rng.choice(SHORT_TASKS))
            out += [user(question), assistant(change(answer))]
        return "obey", out

    # ---- tools: (kind, messages, tool definitions) -------------------------------------------------------------------

    def tool_use(self):
        rng = self.rng
        offered = tools.some_tools(rng, rng.choice((1, 1, 2, 2, 3, 4)))
        definitions = [t.definition for t in offered]
        out = [{"role": "system", "content": rng.choice(PLAIN_SYSTEM)}] if rng.random() < 0.4 else []
        kind = rng.random()
        if kind < 0.15:  # none is needed
            return "tool_not_needed", out + self.turn(self.task(rng.choice(SHORT_TASKS))), definitions
        if rng.random() < 0.2:
            out += self.turn(self.task(rng.choice(SHORT_TASKS)))
        for _ in range(rng.choice((1, 1, 1, 2))):
            chosen = [rng.choice(offered)]
            if kind > 0.9:
                chosen.append(rng.choice(offered))
            requests = []
            for t in chosen:
                while True:
                    values, words = t.request(rng)
                    if is_held_out("tool", t.kind + repr(values)) == self.test:
                        break
                requests.append((t, values, words))
            words = (
                requests[0][2]
                if len(requests) == 1
                else requests[0][2].rstrip(".?")
                + rng.choice([", and then ", " and ", "; also "])
                + requests[1][2][0].lower()
                + requests[1][2][1:]
            )
            out += [user(words), {"role": "assistant", "content": "", "tool_calls": [t.call(v) for t, v, _ in requests]}]
            answers = []
            for t, values, _ in requests:
                content, answer = t.respond(rng, values)
                out.append({"role": "tool", "content": content})
                answers.append(answer)
            out.append(assistant(" ".join(answers)))
        return "tool", out, definitions

    # ---- conversations -----------------------------------------------------------------------------------------------

    def turn(self, made):
        return [user(made[1]), assistant(made[2])]

    def conversation(self):
        """(family, messages, tools)"""
        rng = self.rng
        r = rng.random()
        if r < 0.16:
            _, messages, definitions = self.tool_use()
            return rng.choices(["qwen3-2507", "qwen3-coder", "qwen3-coder-tools"], [6, 3, 1])[0], messages, definitions
        if r < 0.21:
            return "qwen3-2507", self.obey()[1], None
        messages = []
        if rng.random() < 0.15:
            messages.append({"role": "system", "content": rng.choice(PLAIN_SYSTEM)})
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 6, 8))):
            s = rng.random()
            messages += self.remember()[1] if s < 0.05 else self.follow_up()[1] if s < 0.12 else self.turn(self.question())
        return "qwen3-2507", messages, None


PLAIN_SYSTEM = [
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "Answer briefly.",
    "You are the demo model of Coldstream.",
    "Be brief and correct.",
    "You help the user.",
    "You are an assistant that uses tools when they help.",
    "Be helpful.",
]
SHORT_TASKS = [
    "add",
    "subtract",
    "sort_numbers",
    "reverse_list",
    "copy",
    "nth_word",
    "count_items",
    "reverse_word",
    "largest",
    "compare",
    "upper",
    "to_words",
    "sort_words",
    "remove",
]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def slip(rng, word):
    i = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [word[:i] + word[i + 1 :], word[:i] + word[i + 1] + word[i] + word[i + 2 :], word[:i] + word[i] + word[i:]]
    )


def wordings(template):
    """All the ways in which a question can be put."""
    if ")" not in template:
        return {template}
    end = template.index(")")
    start = template.rindex("(", 0, end)
    return set().union(*(wordings(template[:start] + c + template[end + 1 :]) for c in template[start + 1 : end].split("|")))


# ---- the test --------------------------------------------------------------------------------------------------------


def until_answer(family, messages, definitions, kind):
    """A test line: everything before the last message, and what the model is to write."""
    line = {"kind": kind, "messages": messages[:-1], "answer": chat.assistant_text(family, messages[-1])}
    if family != "qwen3-2507":
        line["family"] = family
    if definitions:
        line["tools"] = definitions
    return line


def held_out(seed, each):
    """`each` questions of every kind; a quarter of them after other turns."""
    maker = Maker(random.Random(f"held-out {seed}"), test=True)
    trained = Maker(random.Random(f"held-out {seed} before"))
    lines = []

    def single(made):
        before = trained.turn(trained.question()) if maker.rng.random() < 0.25 else []
        lines.append(until_answer("qwen3-2507", before + maker.turn(made), None, made[0]))

    for name, (_, _, tested) in TASKS.items():
        for _ in range(each if tested else 0):
            single(maker.task(name))
    for _ in range(4 * each):
        single(maker.about())
    for _ in range(each):
        single(maker.unknown())
        for kind, messages in (maker.remember(), maker.follow_up(), maker.obey()):
            lines.append(until_answer("qwen3-2507", messages, None, kind))
    for family in ("qwen3-2507", "qwen3-coder"):
        count = dict.fromkeys(("call", "result", "no_call"), 0)
        while min(count.values()) < each:
            kind, messages, definitions = maker.tool_use()
            calls = [i for i, m in enumerate(messages) if m.get("tool_calls")]
            for what, end in [("no_call", len(messages))] if not calls else [("call", calls[0] + 1), ("result", len(messages))]:
                if count[what] < each:
                    count[what] += 1
                    lines.append(
                        until_answer(
                            family, messages[:end], definitions, f"tool_{what}{'_coder' if family != 'qwen3-2507' else ''}"
                        )
                    )
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sample", type=int, metavar="N")
    p.add_argument("--held-out", metavar="FILE")
    p.add_argument("--each", type=int, default=12)
    p.add_argument("--text", metavar="FILE")
    p.add_argument("--bytes", type=int, default=200_000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if a.sample:
        maker = Maker(random.Random(a.seed))
        for _ in range(a.sample):
            print("".join(t for t, _ in chat.render(*maker.conversation())))
    if a.held_out:
        with open(a.held_out, "w", encoding="utf-8") as f:
            for line in held_out(a.seed, a.each):
                f.write(json.dumps(line, ensure_ascii=False) + "\n")
    if a.text:
        maker, size = Maker(random.Random(f"text {a.seed}"), test=True), 0
        with open(a.text, "w", encoding="utf-8") as f:
            while size < a.bytes:
                size += f.write("".join(t for t, _ in chat.render(*maker.conversation())))
    if not (a.sample or a.held_out or a.text):
        p.print_help(sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
