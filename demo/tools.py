"""Conversations in which the model has tools: which one a request needs, with which arguments, and what its result means.

A kind of tool has several names and several words for everything, so that the model reads the definitions instead of knowing
them. """

import json

from words import CITIES, NAMES, THINGS, any_word, made_up_word
from tasks import ask


def kind_of(type_name):
    """Of a parameter: its type and one of the descriptions."""
    return lambda descriptions: lambda rng: (type_name, rng.choice(descriptions.split("|")))


text, integer, boolean = kind_of("string"), kind_of("integer"), kind_of("boolean")

SKIES = ["sunny", "cloudy", "rainy", "windy", "foggy", "clear", "snowy"]
LANGUAGES = ["German", "French", "Spanish", "Italian", "Dutch", "Polish", "Latin"]
CURRENCIES = ["EUR", "USD", "GBP", "CHF", "JPY", "SEK"]
ROOMS = ["kitchen", "bedroom", "bathroom", "hall", "garage", "office", "cellar", "garden"]


def path(rng):
    name = any_word(rng, 0.3) + rng.choice([".txt", ".md", ".c", ".py", ".json", ".log"])
    return name if rng.random() < 0.5 else any_word(rng, 0.1) + "/" + name


def words(rng, lo=2, hi=5):
    return " ".join(any_word(rng, 0.15) for _ in range(rng.randint(lo, hi)))


def command(rng):
    return rng.choice(
        [
            lambda: "ls -l",
            lambda: "ls " + any_word(rng, 0.1),
            lambda: "cat " + path(rng),
            lambda: "make " + rng.choice(["all", "clean", "test", "install"]),
            lambda: "pwd",
            lambda: "git status",
            lambda: "git log",
            lambda: "wc -l " + path(rng),
            lambda: "mkdir " + any_word(rng),
            lambda: "rm " + path(rng),
            lambda: "./dev test",
            lambda: "grep " + any_word(rng) + " " + path(rng),
        ]
    )()


# names, descriptions, parameters {alternative names: kind}, arguments(rng) in the parameters' order, requests, result(rng,
# *arguments), answer(rng, result, *arguments)
TOOLS = {
    "weather": dict(
        names=["get_weather", "weather", "current_weather", "fetch_weather", "weather_now"],
        about=["Get the weather of a city.", "Current weather in a city.", "Returns the weather."],
        parameters=[("city|location|place|town", text("Name of the city|The city|City name"))],
        arguments=lambda rng: [rng.choice(CITIES)],
        requests=[
            "what is the weather (in|like in) {0}(?|)",
            "how is the weather in {0}( today| now|)(?|)",
            "(tell|give) me the weather in {0}(.|)",
            "weather in {0}(?|)",
            "do i need an umbrella in {0}(?|)",
            "is it (cold|warm|raining|sunny) in {0}(?|)",
        ],
        result=lambda rng, city: {"temperature": rng.randint(0, 35), "sky": rng.choice(SKIES)},
        answer=lambda r, city: f"In {city} it is {r['temperature']} degrees and {r['sky']}.",
    ),
    "time": dict(
        names=["get_time", "current_time", "clock", "time_in"],
        about=["Get the time in a city.", "Tells what time it is.", "Current local time."],
        parameters=[("city|place|location", text("Name of the city|The city|Where"))],
        arguments=lambda rng: [rng.choice(CITIES)],
        requests=[
            "what time is it in {0}( now|)(?|)",
            "(tell|give) me the time in {0}(.|)",
            "how late is it in {0}(?|)",
            "time in {0}(?|)",
        ],
        result=lambda rng, city: {"time": f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"},
        answer=lambda r, city: f"In {city} it is {r['time']}.",
    ),
    "calculate": dict(
        names=["calculator", "calculate", "evaluate", "compute"],
        about=["Compute an arithmetic expression.", "Evaluates an expression.", "A calculator."],
        parameters=[("expression|formula|input", text("The expression|What to compute|An expression such as 1 + 2"))],
        arguments=lambda rng: [f"{rng.randint(2, 999)} {rng.choice('+-*/')} {rng.randint(2, 99)}"],
        requests=[
            "use the calculator(:| for) {0}",
            "calculate {0} with (the|your) (tool|calculator)(.|)",
            "(compute|evaluate|work out) {0} (with|using) the tool(.|)",
            "what does the calculator say for {0}(?|)",
        ],
        result=lambda rng, e: {"value": rng.randint(0, 99999)},
        answer=lambda r, e: f"The result is {r['value']}.",
    ),
    "read_file": dict(
        names=["read_file", "open_file", "cat", "get_file", "load_file"],
        about=["Read a text file.", "Returns the content of a file.", "Show a file."],
        parameters=[("path|file|filename", text("Path of the file|The file|File name"))],
        arguments=lambda rng: [path(rng)],
        requests=[
            "(show|read|print) me the file {0}(.|)",
            "what (is|stands) in (the file |){0}(?|)",
            "(read|open|show) {0}(.|)",
            "(print|give me) the content of {0}(.|)",
        ],
        result=lambda rng, p: words(rng, 1, 6),
        answer=lambda r, p: f"{p} contains: {r}",
    ),
    "write_file": dict(
        names=["write_file", "save_file", "create_file", "put_file"],
        about=["Write text to a file.", "Creates a file with the given text.", "Save a file."],
        parameters=[
            ("path|file|filename", text("Path of the file|The file|File name")),
            ("content|text|data", text("The text|What to write|Content of the file")),
        ],
        arguments=lambda rng: [path(rng), words(rng)],
        requests=[
            '(write|save|put) "{1}" (to|into|in) (the file |){0}(.|)',
            '(create|make) (a file|the file) {0} with the text "{1}"(.|)',
            "save (this|the text) (as|in|to) {0}: {1}",
        ],
        result=lambda rng, p, t: rng.choice(["ok", "done", "written"]),
        answer=lambda r, p, t: f"I wrote {p}.",
    ),
    "list_files": dict(
        names=["list_files", "ls", "list_directory", "dir", "list_folder"],
        about=["List the files of a folder.", "Names of the files in a directory.", "List a directory."],
        parameters=[("path|folder|directory", text("Path of the folder|The folder|Which directory"))],
        arguments=lambda rng: [any_word(rng, 0.2) + ("/" + any_word(rng, 0.2) if rng.random() < 0.3 else "")],
        requests=[
            "(list|show) (the files in|the folder|the directory) {0}(.|)",
            "(which|what) files are in {0}(?|)",
            "what is in the (folder|directory) {0}(?|)",
        ],
        result=lambda rng, p: [path(rng).split("/")[-1] for _ in range(rng.randint(1, 4))],
        answer=lambda r, p: f"{p} contains {', '.join(r)}.",
    ),
    "shell": dict(
        names=["run_command", "shell", "bash", "execute", "terminal"],
        about=["Run a shell command.", "Executes a command and returns its output.", "Run a command line."],
        parameters=[("command|cmd|line", text("The command|Command to run|What to run"))],
        arguments=lambda rng: [command(rng)],
        requests=[
            "(run|execute|start) {0}(.|)",
            "(run|execute) the command {0}(.|)",
            '(run|execute) "{0}" (in the shell|in the terminal|for me)(.|)',
            "please run: {0}",
        ],
        result=lambda rng, c: words(rng, 1, 4),
        answer=lambda r, c: f"The output is: {r}",
    ),
    "message": dict(
        names=["send_message", "send_email", "message", "notify", "text_to"],
        about=["Send a message to somebody.", "Sends a text to a person.", "Write to a person."],
        parameters=[
            ("to|recipient|person|name", text("Who gets it|The recipient|Name")),
            ("text|message|body", text("The message|What to say|Text of the message")),
        ],
        arguments=lambda rng: [rng.choice(NAMES), words(rng)],
        requests=[
            "(send|write) (to |){0}(:| the message:) {1}",
            '(send|write) "{1}" to {0}(.|)',
            "tell {0}: {1}",
            "(send|write) {0} a message: {1}",
        ],
        result=lambda rng, n, t: rng.choice(["sent", "ok", "delivered"]),
        answer=lambda r, n, t: f"I sent the message to {n}.",
    ),
    "alarm": dict(
        names=["set_alarm", "alarm", "wake_up", "set_clock"],
        about=["Set an alarm.", "Wakes the user at a time.", "Set the alarm clock."],
        parameters=[("hour|h", integer("Hour, 0 to 23|The hour")), ("minute|min|m", integer("Minute|The minute, 0 to 59"))],
        arguments=lambda rng: [rng.randint(0, 23), rng.randint(10, 59)],
        requests=[
            "(wake me|wake me up|set an alarm|set the alarm) (at|for) {0}:{1}(.|)",
            "alarm (at|for) {0}:{1}(.|)",
            "i must get up at {0}:{1}(.|)",
        ],
        result=lambda rng, h, m: rng.choice(["ok", "done", "set"]),
        answer=lambda r, h, m: f"The alarm is set for {h}:{m}.",
    ),
    "timer": dict(
        names=["set_timer", "start_timer", "timer", "countdown"],
        about=["Start a timer.", "A timer that rings after some minutes.", "Count down minutes."],
        parameters=[("minutes|duration|length", integer("Minutes|How many minutes|Length in minutes"))],
        arguments=lambda rng: [rng.randint(1, 120)],
        requests=[
            "(set|start) a timer (for|of) {0} minutes(.|)",
            "timer: {0} minutes",
            "(tell|remind) me in {0} minutes(.|)",
            "ring in {0} minutes(.|)",
        ],
        result=lambda rng, m: rng.choice(["ok", "started", "running"]),
        answer=lambda r, m: f"The timer runs for {m} minutes.",
    ),
    "price": dict(
        names=["get_price", "price_of", "lookup_price", "shop_price"],
        about=["Price of a product.", "Looks up what something costs.", "Returns the price in euros."],
        parameters=[("product|item|article", text("The product|Name of the product|What"))],
        arguments=lambda rng: [rng.choice(THINGS)],
        requests=[
            "(what|how much) (is the price of|costs) a {0}(?|)",
            "how much is a {0}(?|)",
            "(find|look up|get) the price of a {0}(.|)",
            "what does a {0} cost(?|)",
        ],
        result=lambda rng, p: {"price": rng.randint(1, 999)},
        answer=lambda r, p: f"A {p} costs {r['price']} euros.",
    ),
    "convert": dict(
        names=["convert_currency", "exchange", "convert", "currency"],
        about=["Convert money.", "Converts an amount from one currency to another.", "Currency exchange."],
        parameters=[
            ("amount|value|sum", integer("The amount|How much")),
            ("from|source|from_currency", text("Currency to convert from|From")),
            ("to|target|to_currency", text("Currency to convert to|To")),
        ],
        arguments=lambda rng: [rng.randint(1, 999)] + rng.sample(CURRENCIES, 2),
        requests=[
            "(convert|exchange|change) {0} {1} (to|into) {2}(.|)",
            "how much is {0} {1} in {2}(?|)",
            "what are {0} {1} in {2}(?|)",
            "{0} {1} in {2}(?|)",
        ],
        result=lambda rng, a, x, y: {"amount": rng.randint(1, 9999)},
        answer=lambda r, a, x, y: f"{a} {x} are {r['amount']} {y}.",
    ),
    "light": dict(
        names=["set_light", "switch_light", "light", "lamp"],
        about=["Switch a light on or off.", "Controls the lights.", "Turn lights on and off."],
        parameters=[
            ("room|place|where", text("The room|Which room|Room")),
            ("on|state|enabled", boolean("true: on|Whether it is on|On or off")),
        ],
        arguments=lambda rng: [
            rng.choice(["", "", "upper ", "lower ", "small ", "large ", "old ", "new ", "left ", "right ", "second ", "front "])
            + rng.choice(ROOMS),
            rng.random() < 0.5,
        ],
        requests=None,
        result=lambda rng, r, on: "ok",
        answer=lambda r, room, on: f"The light in the {room} is {'on' if on else 'off'}.",
    ),
    "translate": dict(
        names=["translate", "translator", "translate_text"],
        about=["Translate a text.", "Translates into a language.", "Translation."],
        parameters=[
            ("text|input|words", text("The text|What to translate")),
            ("language|target|to", text("The language|Target language")),
        ],
        arguments=lambda rng: [words(rng, 1, 3), rng.choice(LANGUAGES)],
        requests=[
            'translate "{0}" (to|into) {1}(.|)',
            '(what is|how do you say) "{0}" in {1}(?|)',
            "(translate|say) (to|in) {1}: {0}",
        ],
        result=lambda rng, t, lang: " ".join(made_up_word(rng) for _ in t.split()),
        answer=lambda r, t, lang: f"In {lang} it is: {r}",
    ),
    "search": dict(
        names=["search", "web_search", "search_web", "find_pages", "lookup"],
        about=["Search the web.", "Finds pages about something.", "Web search."],
        parameters=[("query|q|terms", text("What to search for|The query|Search terms"))],
        arguments=lambda rng: [words(rng, 1, 3)],
        requests=[
            "(search|search the web|look) for {0}(.|)",
            "(find|search) (pages|something|information) about {0}(.|)",
            "(google|look up) {0}(.|)",
        ],
        result=lambda rng, q: words(rng, 2, 5),
        answer=lambda r, q: f"I found: {r}",
    ),
    "book": dict(
        names=["book_table", "reserve", "reserve_table", "booking"],
        about=["Book a table in a restaurant.", "Reserves a table.", "Table reservation."],
        parameters=[
            ("name|guest", text("Name of the guest|Who")),
            ("people|persons|guests", integer("How many people|Number of people")),
            ("time|at|when", text("Time such as 19:30|When")),
        ],
        arguments=lambda rng: [
            rng.choice(NAMES),
            rng.randint(1, 12),
            f"{rng.randint(11, 22)}:{rng.choice(['00', '15', '30', '45'])}",
        ],
        requests=[
            "(book|reserve) a table for {1} at {2}(, name|, the name is| for) {0}(.|)",
            "a table for {1} people at {2} for {0}, please(.|)",
            "{0} (needs|wants) a table for {1} at {2}(.|)",
        ],
        result=lambda rng, n, p, t: rng.choice(["ok", "booked", "confirmed"]),
        answer=lambda r, n, p, t: f"A table for {p} at {t} is booked for {n}.",
    ),
    "play": dict(
        names=["play_music", "play_song", "music", "player"],
        about=["Play a song.", "Plays music.", "Starts a song."],
        parameters=[("title|song|track", text("Title of the song|The song"))],
        arguments=lambda rng: [words(rng, 1, 3)],
        requests=['play (the song |)"{0}"(.|)', "(play|start) the song {0}(.|)", "i want to hear {0}(.|)"],
        result=lambda rng, t: rng.choice(["ok", "playing"]),
        answer=lambda r, t: f"Now playing {t}.",
    ),
}
LIGHT_REQUESTS = {
    True: [
        "(turn|switch) on the light in the {0}(.|)",
        "(turn|switch) the {0} light on(.|)",
        "(light|lights) on in the {0}(.|)",
    ],
    False: [
        "(turn|switch) off the light in the {0}(.|)",
        "(turn|switch) the {0} light off(.|)",
        "(light|lights) off in the {0}(.|)",
    ],
}


class Tool:
    """One wording of a kind of tool."""

    def __init__(self, rng, kind):
        self.kind, self.spec = kind, TOOLS[kind]
        self.name = rng.choice(self.spec["names"])
        properties = {}
        for names, fields in self.spec["parameters"]:
            t, about = fields(rng)
            properties[rng.choice(names.split("|"))] = {"type": t, "description": about}
        self.parameters = list(properties)
        self.definition = {
            "type": "function",
            "function": {
                "name": self.name,
                "description": rng.choice(self.spec["about"]),
                "parameters": {"type": "object", "properties": properties, "required": list(properties)},
            },
        }

    def request(self, rng):
        """(arguments, the user's words)"""
        values = self.spec["arguments"](rng)
        templates = LIGHT_REQUESTS[values[1]] if self.kind == "light" else self.spec["requests"]
        return values, ask(rng, templates, *values)

    def call(self, values):
        return {"type": "function", "function": {"name": self.name, "arguments": dict(zip(self.parameters, values))}}

    def respond(self, rng, values):
        """(content of the tool message, the model's answer)"""
        result = self.spec["result"](rng, *values)
        return result if isinstance(result, str) else json.dumps(result), self.spec["answer"](result, *values)


def some_tools(rng, n):
    return [Tool(rng, kind) for kind in rng.sample(list(TOOLS), n)]
