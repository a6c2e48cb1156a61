"""The Jinja chat template that goes into the model's file, for programs that run such templates (Coldstream has its own in C).
It prints what chat.py prints in the Hermes style."""

import chat


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


TEMPLATE = """{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- if tools %}
{{- '<|im_start|>system\\n' + (system + '\\n\\n' if system is not none else '') + HEAD }}
{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
{{- TAIL + '<|im_end|>\\n' }}
{%- elif system is not none %}
{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}
{%- set f = call.function or call %}
{{- ('\\n' if m.content or not loop.first else '') + '<tool_call>\\n{"name": "' + f.name + '", "arguments": ' }}
{{- (f.arguments if f.arguments is string else f.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif m.role == 'tool' %}
{{- ('<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' else '') + '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' }}
{%- elif m.role != 'system' or not loop.first %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}""".replace("HEAD", quoted(chat.HERMES_HEAD)).replace(
    "TAIL", quoted(chat.HERMES_TAIL)
)
