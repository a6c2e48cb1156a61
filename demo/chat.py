"""Conversations as the chat templates print them, in the two styles the model is to know (Hermes, as Qwen3-2507; Qwen3-Coder's
blocks), cut into pieces so that training knows which text is the model's own. runtime/text/chat*.c is the same in C;
test_demo.py compares the two."""

import json

HERMES_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
HERMES_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

CODER_SYSTEM = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
CODER_WORDS = {
    "qwen3-coder": (
        "functions",
        "function",
        "This is the value for the second parameter\nthat can span\nmultiple lines",
        "an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags",
    ),
    "qwen3-coder-tools": (
        "tools",
        "tool",
        "value_2",
        "the tool calling block MUST begin with an opening <tool_call> tag and end with a closing </tool_call> tag.",
    ),
}
CODER_TAIL = """
</tools>

If you choose to call a {1} ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
{2}
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: {3}
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT after
- If there is no function call available, answer the question like normal with your current knowledge and do not tell the user about function calls
</IMPORTANT>"""


def dumps(value):
    return json.dumps(value, ensure_ascii=False)


def coder_value(value):
    return dumps(value) if isinstance(value, (dict, list)) else str(value)


def coder_tool(tool):
    """For tools as tools.py makes them: type, name, description; parameters with type, properties and required."""
    f = tool["function"]
    out = f"\n<function>\n<name>{f['name']}</name>\n<description>{f['description']}</description>\n<parameters>"
    for name, fields in f["parameters"]["properties"].items():
        out += f"\n<parameter>\n<name>{name}</name>\n<type>{fields['type']}</type>\n<description>{fields['description']}</description>"
        out += (
            "".join(f"\n<{k}>{coder_value(v)}</{k}>" for k, v in fields.items() if k not in ("type", "description"))
            + "\n</parameter>"
        )
    out += "".join(f"\n<{k}>{coder_value(v)}</{k}>" for k, v in f["parameters"].items() if k not in ("type", "properties"))
    return out + "\n</parameters>\n</function>"


def system_text(family, system, tools):
    if not tools:
        return system
    if family == "qwen3-2507":
        head = system + "\n\n" if system is not None else ""
        return head + HERMES_HEAD + "".join("\n" + dumps(t) for t in tools) + HERMES_TAIL
    words = CODER_WORDS[family]
    head = CODER_SYSTEM if system is None else system
    return (
        head
        + f"\n\n# Tools\n\nYou have access to the following {words[0]}:\n\n<tools>"
        + "".join(map(coder_tool, tools))
        + CODER_TAIL.format(*words)
    )


def call_text(family, call):
    if family == "qwen3-2507":
        return f"<tool_call>\n{{\"name\": \"{call['name']}\", \"arguments\": {dumps(call['arguments'])}}}\n</tool_call>"
    values = "".join(f"<parameter={k}>\n{coder_value(v)}\n</parameter>\n" for k, v in call["arguments"].items())
    return f"<tool_call>\n<function={call['name']}>\n{values}</function>\n</tool_call>"


def assistant_text(family, message):
    """What the model writes in this turn; no content beside calls here."""
    calls = message.get("tool_calls")
    if not calls:
        return message["content"]
    return "\n".join(call_text(family, c["function"]) for c in calls)


def render(family, messages, tools=None):
    """[(text, whether the model writes it)]; joined, the whole conversation up to its last message."""
    first = 1 if messages[0]["role"] == "system" else 0
    system = system_text(family, messages[0]["content"] if first else None, tools)
    out = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)] if system is not None else []
    hermes = family == "qwen3-2507"
    for i in range(first, len(messages)):
        m = messages[i]
        if m["role"] == "assistant":
            out += [("<|im_start|>assistant\n", False), (assistant_text(family, m) + "<|im_end|>", True), ("\n", False)]
        elif m["role"] == "tool":
            begins, ends = messages[i - 1]["role"] != "tool", i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
            head = "<|im_start|>user" + ("" if hermes else "\n") if begins else ""
            body = (
                f"\n<tool_response>\n{m['content']}\n</tool_response>"
                if hermes
                else f"<tool_response>\n{m['content']}\n</tool_response>\n"
            )
            out.append((head + body + ("<|im_end|>\n" if ends else ""), False))
        else:
            out.append((f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n", False))
    return out


def prompt(family, messages, tools=None):
    return "".join(text for text, _ in render(family, messages, tools)) + "<|im_start|>assistant\n"
