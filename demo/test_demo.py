#!/usr/bin/env python3
"""Tests of what makes the demo model: generator, conversations, vocabulary, exporter. Standard library only; COLDSTREAM names
the program, without it what needs it is skipped."""

import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))
sys.dont_write_bytecode = True

import chat
import corpus
import export
import facts
import template
import tools
import vocab
from tasks import TASKS, expand

PROGRAM = os.environ.get("COLDSTREAM")
FAMILIES = ("qwen3-2507", "qwen3-coder", "qwen3-coder-tools")


def coldstream(*words, stdin=None):
    done = subprocess.run([PROGRAM, *words], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0, f"{words}: {done.returncode} {done.stderr.decode()[-500:]}"
    return done.stdout.decode()


class Generator(unittest.TestCase):
    def test_tasks_are_clean(self):
        rng = random.Random(1)
        for name, (make, _, _) in TASKS.items():
            for _ in range(150):
                operands, question, answer = make(rng)
                for text in (question, answer):
                    self.assertTrue(text and text == text.strip(), (name, text))
                    self.assertNotRegex(text, r"\x00|\(\||\|\)", name)
                self.assertNotIn("{" + "x", question.split('{"')[0], name)
                self.assertLess(len(question) + len(answer), 400, name)
                self.assertTrue(operands, name)

    def test_answers_are_right(self):
        rng = random.Random(2)
        for _ in range(300):
            operands, _, answer = TASKS["add"][0](rng)
            self.assertEqual(sum(map(int, operands.split("+"))), int(answer))
            operands, question, answer = TASKS["reverse_word"][0](rng)
            self.assertIn(operands, question.lower())
            self.assertEqual(operands, "".join(reversed(answer)))
            operands, _, answer = TASKS["to_digits"][0](rng)
            self.assertEqual(operands[:-1], answer)
            _, question, answer = TASKS["read_json"][0](rng)
            inside = json.loads(question[question.index("{") : question.index("}") + 1])
            self.assertIn(answer, map(str, inside.values()))
            _, question, answer = TASKS["sort_numbers"][0](rng)
            numbers = sorted(map(int, re.findall(r"\d+", question)))
            self.assertEqual(numbers, sorted(map(int, answer.split(", "))))

    def test_instances_are_kept_apart(self):
        train, test = corpus.Maker(random.Random(3)), corpus.Maker(random.Random(3), test=True)
        seen = 0
        for name in ("add", "copy", "spell", "sort_words"):
            for maker, wanted in ((train, False), (test, True)):
                original = TASKS[name]
                made = []
                TASKS[name] = (lambda rng: made.append(original[0](rng)) or made[-1], *original[1:])
                try:
                    for _ in range(20):
                        maker.task(name)
                        self.assertEqual(corpus.is_held_out(name, made[-1][0]), wanted)
                        seen += 1
                finally:
                    TASKS[name] = original
        self.assertEqual(seen, 160)

    def test_same_seed_same_conversations(self):
        first, second = (corpus.Maker(random.Random(4)) for _ in range(2))
        for _ in range(30):
            self.assertEqual(first.conversation(), second.conversation())

    def test_every_kind_of_test_question(self):
        lines = corpus.held_out(1, 2)
        kinds = {line["kind"] for line in lines}
        self.assertTrue({n for n, (_, _, tested) in TASKS.items() if tested} < kinds)
        self.assertTrue(
            {"about", "unknown", "remember", "follow_up", "obey", "tool_call", "tool_call_coder", "tool_result", "tool_no_call"}
            < kinds
        )
        self.assertEqual(lines, corpus.held_out(1, 2))
        for line in lines:
            self.assertIn(line["messages"][-1]["role"], ("user", "tool"))

    def test_alternatives(self):
        rng = random.Random(5)
        self.assertEqual({expand(rng, "(a|b(c|d)|)x") for _ in range(200)}, {"ax", "bcx", "bdx", "x"})
        self.assertEqual(corpus.wordings("(a|b(c|d)|)x"), {"ax", "bcx", "bdx", "x"})


class Facts(unittest.TestCase):
    """What the model says must be true of the program."""

    def test_flags_exist(self):
        known = {name for names in facts.program_flags() for name in names}
        self.assertGreater(len(known), 100)
        for names, answer in facts.FLAGS.items():
            for name in names.split():
                self.assertIn(name, known)
            self.assertTrue(any(answer.startswith(n + " ") for n in names.split()) or answer.startswith("-r N of bench"), answer)

    def test_verbs_and_commands_exist(self):
        verbs = set(re.findall(r'\[VERB_\w+\] = \{"(\w+)"', (ROOT / "runtime/cli/options.c").read_text(encoding="utf-8")))
        self.assertTrue({k[5:] for k in facts.FACTS if k.startswith("verb_")} <= verbs)
        slash = set(re.findall(r'\[SLASH_\w+\] = \{"/(\w+)', (ROOT / "runtime/cli/repl_command.c").read_text(encoding="utf-8")))
        self.assertTrue({k[6:] for k in facts.FACTS if k.startswith("slash_")} <= slash)

    def test_questions_are_well_formed(self):
        rng = random.Random(6)
        for name, (answer, questions) in facts.FACTS.items():
            self.assertEqual(answer, answer.strip())
            for q in questions:
                self.assertEqual(q.count("("), q.count(")"), (name, q))
                text = expand(rng, q)
                self.assertNotRegex(text, r"[()|]", name)
        for q in facts.FLAG_QUESTIONS + facts.UNKNOWN_QUESTIONS:
            self.assertEqual(q.count("("), q.count(")"), q)


class Conversations(unittest.TestCase):
    def some(self, n, seed):
        maker = corpus.Maker(random.Random(seed))
        return [maker.conversation() for _ in range(n)]

    @unittest.skipUnless(PROGRAM, "COLDSTREAM names no program")
    def test_rendered_as_the_program_does(self):
        made = self.some(1000, 7)
        wanted = [c for f in FAMILIES for c in [c for c in made if c[2] and c[0] == f][:4]] + [c for c in made if not c[2]][:4]
        self.assertEqual(len(wanted), 16)
        for family, messages, definitions in wanted:
            request = json.dumps({"messages": messages, "tools": definitions, "kwargs": {"add_generation_prompt": False}})
            self.assertEqual(
                "".join(t for t, _ in chat.render(family, messages, definitions)),
                coldstream("template", "--family", family, stdin=request.encode()).removesuffix("\n") + "\n",
            )

    @unittest.skipUnless(PROGRAM, "COLDSTREAM names no program")
    def test_calls_are_understood(self):
        rng = random.Random(9)
        for kind in tools.TOOLS:
            tool = tools.Tool(rng, kind)
            values, _ = tool.request(rng)
            call = tool.call(values)
            for family in FAMILIES[:2]:
                text = chat.assistant_text(family, {"content": "", "tool_calls": [call]})
                request = {
                    "text": text,
                    "tools": [tool.definition],
                    "finish": "stop",
                    "format": "hermes" if family == "qwen3-2507" else "qwen3-coder",
                }
                parsed = json.loads(
                    coldstream("template", "--family", family, "--parse-tools", stdin=json.dumps(request).encode())
                )
                self.assertEqual(parsed["tool_calls"], [call["function"]], text)

    def test_template_of_the_file(self):
        try:
            import jinja2
        except ImportError:
            self.skipTest("no jinja2")
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        env.filters["tojson"] = lambda v, **_: chat.dumps(v)
        rendered = env.from_string(template.TEMPLATE)
        for family, messages, definitions in self.some(60, 10):
            if family == "qwen3-2507":
                self.assertEqual(
                    rendered.render(messages=messages, tools=definitions, add_generation_prompt=False),
                    "".join(t for t, _ in chat.render(family, messages, definitions)),
                )

    def test_own_text_is_marked(self):
        for family, messages, definitions in self.some(40, 11):
            own = [t for t, mine in chat.render(family, messages, definitions) if mine]
            self.assertEqual(len(own), sum(m["role"] == "assistant" for m in messages))
            self.assertTrue(all(t.endswith("<|im_end|>") for t in own))


class File(unittest.TestCase):
    def test_merges(self):
        merges = vocab.read_merges()
        tokens, types = vocab.tokens_and_types(merges)
        self.assertEqual(len(tokens), vocab.SIZE)
        self.assertEqual(len(set(tokens)), vocab.SIZE)
        self.assertEqual(len(types), vocab.SIZE)
        known = set(tokens[:256])
        for a, b in merges:
            self.assertTrue(a in known and b in known, (a, b))
            known.add(a + b)

    @unittest.skipUnless(PROGRAM, "COLDSTREAM names no program")
    def test_exported_model_runs(self):
        shape = {
            "vocab": vocab.SIZE,
            "hidden": 64,
            "layers": 2,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 16,
            "experts": 4,
            "used": 2,
            "inner": 32,
            "context": 256,
            "rope_base": 1e4,
            "eps": 1e-6,
        }
        rng = random.Random(12)

        def matrix(*extents, value=None):
            n = 1
            for e in extents:
                n *= e
            return list(extents), struct.pack(f"<{n}f", *([value] * n if value else [rng.gauss(0, 0.1) for _ in range(n)]))

        weights = {"embedding": matrix(vocab.SIZE, 64), "final_norm": matrix(64, value=1.0)}
        for i in range(2):
            weights |= {
                f"layers.{i}.attention_norm": matrix(64, value=1.0),
                f"layers.{i}.mixture_norm": matrix(64, value=1.0),
                f"layers.{i}.q": matrix(64, 64),
                f"layers.{i}.k": matrix(32, 64),
                f"layers.{i}.v": matrix(32, 64),
                f"layers.{i}.o": matrix(64, 64),
                f"layers.{i}.q_norm": matrix(16, value=1.0),
                f"layers.{i}.k_norm": matrix(16, value=1.0),
                f"layers.{i}.router": matrix(4, 64),
                f"layers.{i}.gate_up": matrix(4, 64, 64),
                f"layers.{i}.down": matrix(4, 64, 32),
            }
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/m.gguf"
            export.write(path, shape, weights, vocab.read_merges(), 1)
            listed = json.loads(coldstream("inspect", path, "--json"))
            self.assertIn("Coldstream demo", json.dumps(listed))
            text = "Sort: 3, 1, 2 \u00e9 <|im_end|>"
            ids = coldstream("tokenize", "-m", path, stdin=text.encode())
            self.assertEqual(int(ids.split()[-1]), vocab.SIZE - len(vocab.ADDED) + 2)
            self.assertEqual(coldstream("detokenize", "-m", path, stdin=ids.encode()).rstrip("\n"), text)
            self.assertEqual(
                len(
                    coldstream(
                        "run",
                        "-m",
                        path,
                        "-p",
                        "Sort",
                        "-n",
                        "3",
                        "--temp",
                        "0",
                        "--ids",
                        "--ignore-eos",
                        "--no-learn",
                        "--device",
                        "cpu",
                    ).split()
                ),
                3,
            )


if __name__ == "__main__":
    unittest.main()
