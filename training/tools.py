"""Tool declarations, requests that plainly ask for one, the calls, and answers from the results."""

import json

import numpy as np

from training import topics

CITIES = (
    *topics.CAPITALS.values(), "Munich", "Hamburg", "Lyon", "Porto", "Seville", "Milan", "Naples",
    "Boston", "Chicago", "Seattle", "Austin", "Denver", "Toronto", "Sydney", "Perth", "Osaka",
    "Kyoto", "Seoul", "Lagos", "Accra", "Dakar", "Tunis", "New York", "San Francisco",
    "Los Angeles", "Buenos Aires", "Amsterdam", "Prague", "Zurich", "Geneva", "Barcelona",
    "Manchester", "Glasgow", "Bristol", "Mumbai", "Bangkok", "Singapore", "Jakarta", "Manila",
)  # fmt: skip
SUBJECTS = (
    "llamas", "red pandas", "green tea", "the history of Rome", "jazz music", "solar energy",
    "pasta recipes", "electric cars", "black holes", "chess openings", "wild horses", "bread",
    "mountain bikes", "blue whales", "garden tools", "old maps", "cheap flights", "vision models",
)  # fmt: skip
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack", "Kate",
         "Leo", "Maria", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor")  # fmt: skip
TEXTS = ("see you soon", "dinner is ready", "call me back", "I am late", "happy birthday",
         "the meeting is at noon", "thank you", "good luck", "bring some milk")  # fmt: skip
_WORDS = tuple(word.lower() for phrase in (*CITIES, *SUBJECTS, *NAMES) for word in phrase.split())
_NAME_PARTS = (
    "get", "fetch", "find", "make", "run", "use", "call", "check", "show", "data", "info", "now",
    "today", "report", "service", "local", "quick", "my", "city", "value", "lookup", "api",
)  # fmt: skip
_SYLLABLES = (
    "ba", "co", "da", "fe", "gi", "ho", "ju", "ka", "lo", "mi", "na", "po", "ra", "se", "ti", "vu",
    "wen", "xa", "yor", "zed", "lin", "mar", "ton", "burg", "ville",
)  # fmt: skip


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


_VOWELS, _CONSONANTS = "aeiouy", "bcdfghjklmnpqrstvwxz"


def invented(rng: np.random.Generator) -> str:
    """A made-up word, so that values are copied from the request rather than remembered."""
    style = rng.random()
    if style < 0.3:
        return "".join(_pick(rng, _SYLLABLES) for _ in range(int(rng.integers(2, 4))))
    if style < 0.55:  # the head of one known word and the tail of another
        head, tail = (_pick(rng, _WORDS) for _ in range(2))
        return head[: int(rng.integers(2, 5))] + tail[-int(rng.integers(2, 5)) :]
    odds = rng.choice([0.3, 0.45, 0.6])
    letters = (
        _pick(rng, _VOWELS if rng.random() < odds else _CONSONANTS)
        for _ in range(int(rng.integers(3, 9)))
    )
    return "".join(letters)


def _city(rng: np.random.Generator) -> str:
    return _pick(rng, CITIES) if rng.random() < 0.6 else invented(rng).capitalize()


def _subject(rng: np.random.Generator) -> str:
    return _pick(rng, SUBJECTS) if rng.random() < 0.6 else f"{invented(rng)} {invented(rng)}"


def _person(rng: np.random.Generator) -> str:
    return _pick(rng, NAMES) if rng.random() < 0.6 else invented(rng).capitalize()


def _number(rng: np.random.Generator) -> int:
    return int(rng.integers(0, 10 ** int(rng.integers(1, 4))))


def _message(rng: np.random.Generator) -> str:
    return _pick(rng, TEXTS)


# tool: names, what it does, arguments (their names, JSON type, sampler), requests, result sampler.
_WEATHER = ("sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear")


def _weather_result(rng: np.random.Generator) -> dict:
    degrees = int(rng.integers(-9, 36))
    key = _pick(rng, ("temperature", "temperature_c", "degrees", "temp"))
    sky = _pick(rng, ("condition", "conditions", "sky", "forecast", "weather"))
    result: dict = {key: degrees} if rng.random() < 0.9 else {}
    if rng.random() < 0.7 or not result:
        result[sky] = _pick(rng, _WEATHER)
    return result


def _number_result(rng: np.random.Generator) -> dict:
    return {_pick(rng, ("result", "value", "answer", "total")): _number(rng)}


def _time_result(rng: np.random.Generator) -> dict:
    return {"time": f"{int(rng.integers(24)):02d}:{int(rng.integers(60)):02d}"}


def _status_result(rng: np.random.Generator) -> dict:
    return {"status": _pick(rng, ("ok", "done", "sent", "set", "started"))}


def _text_result(rng: np.random.Generator) -> dict:
    return {_pick(rng, ("result", "title", "answer")): _subject(rng)}


_TOOLS = (
    (("get_weather", "get_current_weather", "weather", "weather_forecast", "getWeather",
      "current_weather"),
     ("Get the current weather in a city", "Get the weather for a city", "Current weather",
      "Returns the weather of a place"),
     ((("city", "location", "place", "town", "city_name"), "string", _city),),
     ("What is the weather in {0}?", "What's the weather in {0}?", "How is the weather in {0}?",
      "What is the weather like in {0}?", "Tell me the weather in {0}.", "Is it raining in {0}?",
      "What's the weather like in {0} today?", "How warm is it in {0}?", "Weather in {0}?",
      "What is the weather in {0} right now?", "What is the temperature in {0}?"),
     _weather_result),
    (("get_time", "get_current_time", "current_time", "time_in", "clock"),
     ("Get the current time in a city", "Get the time", "Local time of a place"),
     ((("city", "location", "place", "timezone"), "string", _city),),
     ("What time is it in {0}?", "What is the time in {0}?", "Tell me the time in {0}.",
      "Which time is it in {0}?"),
     _time_result),
    (("add", "add_numbers", "sum", "plus", "calculate_sum"),
     ("Add two numbers", "Adds two numbers", "Sum of two numbers"),
     ((("a", "x", "first", "number1"), "integer", _number),
      (("b", "y", "second", "number2"), "integer", _number)),
     ("What is {0} plus {1}?", "Add {0} and {1}.", "What is {0} + {1}?", "Add {0} to {1}.",
      "How much is {0} plus {1}?"),
     _number_result),
    (("multiply", "multiply_numbers", "product", "times"),
     ("Multiply two numbers", "Multiplies two numbers", "Product of two numbers"),
     ((("a", "x", "first", "number1"), "integer", _number),
      (("b", "y", "second", "number2"), "integer", _number)),
     ("What is {0} times {1}?", "Multiply {0} by {1}.", "Multiply {0} and {1}.",
      "What is {0} * {1}?"),
     _number_result),
    (("search", "web_search", "search_web", "find", "lookup"),
     ("Search the web", "Search for a topic", "Find pages about something"),
     ((("query", "q", "text", "topic", "search_term"), "string", _subject),),
     ("Search for {0}.", "Search the web for {0}.", "Find pages about {0}.", "Look up {0}.",
      "Please search for {0}."),
     _text_result),
    (("send_message", "send_email", "send_text", "message"),
     ("Send a message to someone", "Send a message", "Send a text to a person"),
     ((("to", "recipient", "person", "name"), "string", _person),
      (("text", "message", "body", "content"), "string", _message)),
     ("Send a message to {0}: {1}", "Send {0} the message: {1}", "Write to {0}: {1}",
      "Tell {0}: {1}", "Text {0}: {1}"),
     _status_result),
    (("set_timer", "start_timer", "timer"),
     ("Start a timer", "Set a timer for some minutes"),
     ((("minutes", "duration", "time"), "integer", _number),),
     ("Set a timer for {0} minutes.", "Start a timer for {0} minutes.",
      "Please set a timer for {0} minutes."),
     _status_result),
    (("play_song", "play_music", "play"),
     ("Play a song", "Play music by its title"),
     ((("title", "song", "name", "track"), "string", _subject),),
     ("Play the song {0}.", "Play {0}.", "Please play the song {0}."),
     _status_result),
    (("get_population", "population", "population_of"),
     ("Get the population of a city", "How many people live in a city"),
     ((("city", "place", "location"), "string", _city),),
     ("How many people live in {0}?", "What is the population of {0}?"),
     _number_result),
    (("convert_currency", "convert_money", "exchange"),
     ("Convert an amount of money", "Convert between currencies"),
     ((("amount", "value"), "integer", _number),
      (("from", "from_currency", "source"), "string",
       lambda rng: _pick(rng, ("euros", "dollars", "pounds"))),
      (("to", "to_currency", "target"), "string",
       lambda rng: _pick(rng, ("yen", "francs", "rupees")))),
     ("Convert {0} {1} to {2}.", "How much are {0} {1} in {2}?", "Change {0} {1} into {2}."),
     _number_result),
)  # fmt: skip


def _declare(rng: np.random.Generator, index: int) -> dict:
    """An OpenAI tool declaration, its names varied."""
    names, summaries, arguments, _, _ = _TOOLS[index]
    name = names[0] if rng.random() < 0.4 else _pick(rng, names)
    roll = rng.random()
    if roll < 0.12:
        name = f"{name}_{invented(rng)}"
    elif roll < 0.35:
        name = f"{_pick(rng, _NAME_PARTS)}_{_pick(rng, _NAME_PARTS)}"
    keys = [
        options[0] if rng.random() < 0.4 else _pick(rng, options) for options, _, _ in arguments
    ]
    properties = {}
    for key, (_, kind, _) in zip(keys, arguments, strict=True):
        properties[key] = {"type": kind}
        if rng.random() < 0.35:
            properties[key]["description"] = f"The {key.replace('_', ' ')}"
    parameters = {"type": "object", "properties": properties}
    if rng.random() < 0.7:
        parameters["required"] = keys
    function = {"name": name, "description": _pick(rng, summaries), "parameters": parameters}
    if rng.random() < 0.1:
        del function["description"]
    return {"type": "function", "function": function}


def _result_sentence(result: dict) -> str:
    """'The temperature is 18 and the condition is sunny.'"""
    parts = [f"the {key.replace('_', ' ')} is {value}" for key, value in result.items()]
    sentence = " and ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _follow_up(rng: np.random.Generator, index: int, call: dict) -> list[dict]:
    """The call, the tool's result and the answer drawn from it."""
    style = rng.random()
    if style < 0.75:
        result = _TOOLS[index][4](rng)
        content = result if style < 0.15 else json.dumps(result)
        answer = _result_sentence(result)
    else:
        content = f"{int(rng.integers(-9, 36))} degrees and {_pick(rng, _WEATHER)}"
        if style > 0.9:
            content = _subject(rng)
        answer = f"The result is {content}."
    return [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": content},
        {"role": "assistant", "content": answer},
    ]


_ADDING = 2  # small sums need no tool
CANNOT = "I cannot do that, because I have no tool for it."


def _request(rng: np.random.Generator, index: int) -> tuple[str, list]:
    """A request in words and the values it names."""
    _, _, arguments, requests, _ = _TOOLS[index]
    values = [sample(rng) for _, _, sample in arguments]
    return _pick(rng, requests).format(*values), values


def unanswerable(rng: np.random.Generator, declared: tuple[int, ...] = ()) -> tuple[str, str]:
    """A request that would need a tool other than those declared."""
    missing = [i for i in range(len(_TOOLS)) if i not in declared and i != _ADDING]
    return _request(rng, int(rng.choice(missing)))[0], CANNOT


def _spoken(turn: tuple[str, str]) -> list[dict]:
    question, answer = turn
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _turn(rng: np.random.Generator, index: int, function: dict) -> tuple[list[dict], dict]:
    """A request for a declared tool, as a message, and the call it asks for."""
    request, values = _request(rng, index)
    if rng.random() < 0.1:
        numbers = all(isinstance(value, int) for value in values)
        request = request.rstrip(".?!").lower() if numbers else f"Please answer: {request}"
    keys = function["parameters"]["properties"]
    call = {"name": function["name"], "arguments": dict(zip(keys, values, strict=True))}
    return [{"role": "user", "content": request}], call


def conversation(rng: np.random.Generator) -> tuple[list[dict], list[dict]]:
    """(messages, tools): a declared tool is called when asked for, and only then.

    Requests that fit no declared tool stand beside requests that fit one, under the same
    declarations, so that the request and not the setting decides.
    """
    number = int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))
    odds = np.array([4.0 if i == 0 else 1.0 for i in range(len(_TOOLS))])  # weather most of all
    odds /= odds.sum()
    indices = [int(i) for i in rng.choice(len(_TOOLS), number, replace=False, p=odds)]
    declared = [_declare(rng, index) for index in indices]
    told = all("description" in tool["function"] for tool in declared)
    messages: list[dict] = []
    roll = rng.random()
    if roll < 0.25:
        messages += _spoken(topics.small_talk(rng))
        if roll < 0.14:
            return messages, declared
    for _ in range(int(rng.choice([1, 2, 3], p=[0.55, 0.35, 0.1]))):
        if told and rng.random() < 0.2:
            messages += _spoken(unanswerable(rng, tuple(indices)))
            continue
        chosen = int(rng.integers(len(indices)))
        asked, call = _turn(rng, indices[chosen], declared[chosen]["function"])
        messages += asked
        if rng.random() < 0.4:
            spoken = {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
            return [*messages, spoken], declared
        messages += _follow_up(rng, indices[chosen], call)
    if rng.random() < 0.2:
        messages += _spoken(topics.small_talk(rng))
    return messages, declared
