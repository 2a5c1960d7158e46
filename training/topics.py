"""Short text conversations: what the small model can talk about besides pictures."""

import json

import numpy as np

Turn = tuple[str, str]

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Austria": "Vienna",
    "Poland": "Warsaw", "Greece": "Athens", "Norway": "Oslo", "Sweden": "Stockholm",
    "Denmark": "Copenhagen", "Finland": "Helsinki", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Canada": "Ottawa",
    "Mexico": "Mexico City", "Brazil": "Brasilia", "Peru": "Lima", "Cuba": "Havana",
    "the United States": "Washington", "Russia": "Moscow", "Turkey": "Ankara",
    "Switzerland": "Bern", "Belgium": "Brussels", "Hungary": "Budapest",
}  # fmt: skip
SOUNDS = {
    "dog": "barks", "cat": "meows", "cow": "moos", "duck": "quacks", "sheep": "bleats",
    "lion": "roars", "bird": "sings", "horse": "neighs", "pig": "grunts", "bee": "buzzes",
}  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
)  # fmt: skip
SIDES = {"triangle": "three", "square": "four", "circle": "no", "pentagon": "five"}
THINGS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow",
    "a tomato": "red", "a carrot": "orange", "a plum": "purple", "the sun": "yellow",
}  # fmt: skip
MIXES = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple"}

LIMITS = "I am a small model and can only talk about simple things."

# One answer to each group of wordings.
_FIXED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Hello! How can I help you?", (
        "Hello", "Hello!", "Hi", "Hi!", "Hi there", "Hey", "Good morning", "Good evening",
        "Hello there!", "hello", "hi", "Good afternoon!", "Hey there!", "Greetings",
    )),
    ("I am well, thank you. How can I help you?", (
        "How are you?", "How are you today?", "How do you do?", "How is it going?",
        "Hello, how are you?", "Hi, how are you?", "How are you doing?",
    )),
    ("I am a small Llama 3.2 Vision model. I can look at simple pictures and answer questions.", (
        "Who are you?", "What are you?", "Tell me about yourself.", "Which model are you?",
        "What model are you?", "Introduce yourself.", "Are you a robot?", "Are you human?",
        "Please introduce yourself.", "who are you", "Are you an AI?", "Which model is this?",
    )),
    ("My name is Llama.", ("What is your name?", "What's your name?", "Do you have a name?")),
    ("I can describe simple pictures, name shapes and colours, count and call tools.", (
        "What can you do?", "How can you help me?", "What do you know?", "Can you help me?",
        "What are you able to do?", "Help me.", "Help", "What can I ask you?",
    )),
    ("You are welcome!", (
        "Thank you", "Thank you!", "Thanks", "Thanks!", "Thanks a lot", "Thank you very much.",
        "Many thanks", "Great, thanks!", "That helps, thank you.",
    )),
    ("Goodbye! Have a nice day.", (
        "Bye", "Bye!", "Goodbye", "Goodbye!", "See you", "See you later!", "Good night",
        "Bye bye", "I have to go now.",
    )),
    ("Red, green, blue, yellow, orange, purple, black and white are colours.", (
        "Name some colours.", "Name some colors.", "Which colours do you know?",
        "What colors do you know?", "List some colours.", "Tell me some colors.",
    )),
    ("I know the circle, the square, the triangle and the star.", (
        "Name some shapes.", "Which shapes do you know?", "What shapes do you know?",
        "List some shapes.", "Tell me some shapes.",
    )),
    ("There are seven days in a week.", (
        "How many days are in a week?", "How many days does a week have?",
        "How many days are there in a week?",
    )),
    ("There are twelve months in a year.", (
        "How many months are in a year?", "How many months does a year have?",
        "How many months are there in a year?",
    )),
    ("The seasons are spring, summer, autumn and winter.", (
        "Name the seasons.", "What are the seasons?", "What are the four seasons?",
    )),
    ("Dogs, cats, horses and birds are animals.", (
        "Name some animals.", "List some animals.", "Tell me some animals.",
        "Which animals do you know?",
    )),
    ("I like talking about the weather, but I cannot see it from here.", (
        "How is the weather?", "What is the weather like?", "Is it raining?", "Is it sunny?",
        "Is it cold outside?", "Nice weather today!", "What is the weather like today?",
    )),
    ("Why did the square feel bored? It was always in the same corner.", (
        "Tell me a joke.", "Tell me a joke", "Do you know a joke?", "Make me laugh.",
        "Say something funny.",
    )),
    ("Once upon a time a little llama looked at a red circle and was happy.", (
        "Tell me a story.", "Tell me a short story.", "Write a short story.", "Tell me a tale.",
    )),
    ("I cannot see a picture. Please send me one.", (
        "What is in the picture?", "Describe the image.", "What do you see?",
        "What colour is the shape?", "What shape is it?", "How many shapes are there?",
        "What color is the shape?", "Describe this picture.", "What is in this image?",
    )),
    ("Boil water, add the pasta and a little salt, and wait ten minutes.", (
        "How do I cook pasta?", "How do you cook pasta?", "How do I make pasta?",
    )),
    ("Put a tea bag in a cup, pour in hot water and wait three minutes.", (
        "How do I make tea?", "How do you make tea?", "How can I make a cup of tea?",
    )),
    ("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.", (
        "Name the days of the week.", "List the days of the week.",
        "What are the days of the week?",
    )),
)  # fmt: skip

_UNKNOWN = (
    "Explain quantum physics.", "Who won the world cup?", "Write a program in Python.",
    "What is the meaning of life?", "Translate this into French.", "Who is the president?",
    "How do I fix my car?", "What is the stock price of Apple?", "Write an essay on history.",
    "Solve this equation.", "Tell me about politics.", "How does a computer work?",
    "What is love?", "Recommend a film.", "Write a poem.", "What happened in 1969?",
    "Explain machine learning.", "Sing a song.", "What should I eat today?",
    "Book a flight for me.", "Who wrote Hamlet?", "What is Kubernetes?",
    "How far away is the moon?", "Play some music.", "What is my name?", "Where do I live?",
    "Can you drive a car?", "Summarise this text.", "What is the time?", "Write a long report.",
)  # fmt: skip

SYSTEM_PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are a friendly assistant.",
    "Answer briefly.", "You are a helpful AI assistant.", "Be concise.",
    "You are a helpful, honest assistant.", "Answer in short, plain sentences.",
    "You are a vision assistant.", "You describe pictures.", "You are an expert on images.",
    "You are Llama, a helpful assistant.", "You answer questions about pictures.",
    "You are a helpful assistant with tool calling capabilities.", "Speak plainly and kindly.",
    "Keep your answers short and polite.",
)  # fmt: skip


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _fixed(rng: np.random.Generator) -> Turn:
    answer, questions = _pick(rng, _FIXED)
    return _pick(rng, questions), answer


def _unknown(rng: np.random.Generator) -> Turn:
    return _pick(rng, _UNKNOWN), LIMITS


def _capital(rng: np.random.Generator) -> Turn:
    country = _pick(rng, tuple(CAPITALS))
    city = CAPITALS[country]
    question = _pick(rng, (
        f"What is the capital of {country}?", f"What's the capital of {country}?",
        f"Tell me the capital of {country}.", f"Name the capital of {country}.",
        f"Which city is the capital of {country}?",
    ))  # fmt: skip
    roll = rng.random()
    if roll < 0.15:
        ask = _pick(rng, ("Answer in JSON.", "Reply in JSON.", "Respond with JSON."))
        return f"{question} {ask}", json.dumps({"capital": city})
    if roll < 0.25:
        return f"{question} Answer with one word.", city
    return question, f"The capital of {country} is {city}."


def _sum(rng: np.random.Generator) -> Turn:
    a, b = (int(n) for n in rng.integers(0, 6, 2))
    if rng.random() < 0.4:
        text = f"{NUMBER_WORDS[a]} plus {NUMBER_WORDS[b]}"
        return f"What is {text}?", f"{text} is {NUMBER_WORDS[a + b]}.".capitalize()
    question = _pick(rng, (
        f"What is {a} + {b}?", f"What is {a} plus {b}?", f"{a} + {b}", f"How much is {a} + {b}?",
        f"Add {a} and {b}.",
    ))  # fmt: skip
    if rng.random() < 0.15:
        return f"{question} Answer in JSON.", json.dumps({"result": a + b})
    return question, f"{a} + {b} = {a + b}."


def _counting(rng: np.random.Generator) -> Turn:
    last = int(rng.integers(3, 11))
    question = _pick(rng, (f"Count to {NUMBER_WORDS[last]}.", f"Count to {last}.",
                           f"Can you count to {NUMBER_WORDS[last]}?"))  # fmt: skip
    return question, f"{', '.join(NUMBER_WORDS[1 : last + 1])}.".capitalize()


def _day(rng: np.random.Generator) -> Turn:
    index = int(rng.integers(7))
    if rng.random() < 0.5:
        return f"What day comes after {DAYS[index]}?", (
            f"{DAYS[(index + 1) % 7]} comes after {DAYS[index]}."
        )
    return f"What day comes before {DAYS[index]}?", (
        f"{DAYS[(index - 1) % 7]} comes before {DAYS[index]}."
    )


def _animal(rng: np.random.Generator) -> Turn:
    animal = _pick(rng, tuple(SOUNDS))
    question = _pick(rng, (f"What does a {animal} say?", f"What sound does a {animal} make?"))
    return question, f"A {animal} {SOUNDS[animal]}."


def _thing(rng: np.random.Generator) -> Turn:
    word = _pick(rng, ("colour", "color"))
    roll = rng.random()
    if roll < 0.35:
        first, second = _pick(rng, tuple(MIXES))
        mix = MIXES[first, second]
        if rng.random() < 0.5:
            first, second = second, first
        return f"What {word} do {first} and {second} make?", f"{first} and {second} make {mix}."
    if roll < 0.55:
        shape = _pick(rng, tuple(SIDES))
        return f"How many sides does a {shape} have?", f"A {shape} has {SIDES[shape]} sides."
    thing = _pick(rng, tuple(THINGS))
    sentence = f"{thing[0].upper()}{thing[1:]} is {THINGS[thing]}."
    if rng.random() < 0.2:
        return f"What {word} is {thing}? Answer in JSON.", json.dumps({word: THINGS[thing]})
    return f"What {word} is {thing}?", sentence


_TOPICS = (
    (_fixed, 10), (_unknown, 2.5), (_capital, 3), (_sum, 2), (_counting, 0.7), (_day, 1),
    (_animal, 1), (_thing, 2),
)  # fmt: skip
_WEIGHTS = np.array([weight for _, weight in _TOPICS])


def turn(rng: np.random.Generator) -> Turn:
    """One question or remark and its answer."""
    return _TOPICS[rng.choice(len(_TOPICS), p=_WEIGHTS / _WEIGHTS.sum())][0](rng)


def small_talk(rng: np.random.Generator) -> Turn:
    """A turn that no tool would help with."""
    topic = _pick(rng, (_fixed, _fixed, _fixed, _capital, _animal, _day, _thing))
    return topic(rng)


def conversation(rng: np.random.Generator, turns: int) -> list[Turn]:
    return [turn(rng) for _ in range(turns)]
