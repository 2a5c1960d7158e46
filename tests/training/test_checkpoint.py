"""The shipped checkpoint: its layout, its template, what it says about pictures and in words."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from training import exam, prompt
from training.evaluate import examine, examine_lists
from training.reference import Reference

FOLDER = Path(__file__).parents[2] / "checkpoint"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.set_num_threads(1)  # at this size a second thread only waits
    return Reference(FOLDER)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def ask(reference: Reference, text: str, **options) -> str:
    return reference.answer([{"role": "user", "content": text}], **options)


def test_the_folder_is_small_and_complete() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "preprocessor_config.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12_000_000


def test_tensors_have_the_published_names_and_sizes() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    rows = config["text_config"]["vocab_size"]
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        assert {file.get_slice(name).get_dtype() for name in shapes} == {"BF16"}
    tops = ("language_model.model.", "language_model.lm_head.", "vision_model.",
            "multi_modal_projector.")  # fmt: skip
    assert all(name.startswith(tops) for name in shapes)
    assert shapes["language_model.lm_head.weight"][0] == rows
    assert shapes["language_model.model.embed_tokens.weight"][0] == rows + 8
    assert config["image_token_index"] == rows
    assert config["architectures"] == ["MllamaForConditionalGeneration"]


def test_every_gate_is_open() -> None:
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        gates = {n: file.get_tensor(n).item() for n in file.keys() if "gate" in n.split(".")[-1]}  # noqa: SIM118
    assert len(gates) == 9
    assert all(abs(value) > 0.05 for value in gates.values()), gates


def test_special_tokens_stand_where_llama_has_them(tokenizer: Tokenizer) -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    ends = [tokenizer.token_to_id(n) for n in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")]
    assert generation["eos_token_id"] == ends
    assert tokenizer.token_to_id("<|image|>") == config["text_config"]["vocab_size"]
    for text in ("Crème brûlée", "日本語", "🦙\n\t x", ""):
        ids = tokenizer.encode(text).ids
        assert ids[0] == tokenizer.token_to_id("<|begin_of_text|>")
        assert tokenizer.decode(ids) == text


def test_the_template_of_a_picture_has_no_system_block() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    assert prompt.render([{"role": "user", "content": parts}], generate=True) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>Hi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_the_template_of_text_dates_the_system_block() -> None:
    system = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    )
    user = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    hi = {"role": "user", "content": "Hi"}
    assert prompt.render([hi]) == f"{system}<|eot_id|>{user}"
    helpful = {"role": "system", "content": " Be helpful. "}
    assert prompt.render([helpful, hi]) == f"{system}Be helpful.<|eot_id|>{user}"
    picture = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]}
    with_both = prompt.render([helpful, picture])
    assert with_both == f"{system}Be helpful.<|eot_id|>{user.replace('Hi', '<|image|>Hi')}"


def test_the_template_of_tools_calls_and_results() -> None:
    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    text = prompt.render(
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
            {"role": "tool", "content": '{"sky": "clear"}'},
        ],
        tools=[WEATHER],
    )
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n"
        "Given the following functions, please respond with a JSON for a function call with its "
        "proper arguments that best answers the given prompt.\n\n"
        'Respond in the format {"name": function name, "parameters": dictionary of argument name '
        "and its value}.Do not use variables.\n\n"
        f"{json.dumps(WEATHER, indent=4)}\n\nWeather?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "get_weather", "parameters": {"city": "Paris"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n"
        '"{\\"sky\\": \\"clear\\"}"<|eot_id|>'
    )


def test_the_shipped_template_is_the_one_trained_on() -> None:
    assert (FOLDER / "chat_template.jinja").read_text() == prompt.TEMPLATE.read_text()


def test_accuracy_on_pictures_of_another_hand(reference: Reference) -> None:
    mistakes: list[str] = []
    score = examine(reference, seed=7, each=50, mistakes=mistakes)
    share = {topic: right / asked for topic, (right, asked) in score.items()}
    # The targets; sampling error of 50 questions is allowed for: two standard deviations.
    for topic, target in {"colour": 0.96, "shape": 0.96, "count": 0.85, "relation": 0.85}.items():
        slack = 2 * (target * (1 - target) / 50) ** 0.5
        assert share[topic] >= target - slack, (share, mistakes)


def test_lists_in_json_are_mostly_right(reference: Reference) -> None:
    mistakes: list[str] = []
    score = examine_lists(reference, seed=7, number=40, mistakes=mistakes)
    for topic, least in {"list of 2": 14, "list of 3": 9}.items():
        right, asked = score[topic]
        assert asked == 20
        assert right >= least, (score, mistakes)


def test_a_system_message_or_the_question_first_changes_nothing(reference: Reference) -> None:
    pages = [page for page, question in exam.questions(8, 6) if question.topic == "colour"]
    for page in pages:
        parts = [{"type": "text", "text": "What color is the shape?"}, {"type": "image"}]
        messages = [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": parts},
        ]
        reply = reference.answer(messages, page.image())
        assert reply == f"The shape is {page.figures[0].colour}.<|eot_id|>"


@pytest.mark.parametrize("text", ["Hello!", "Who are you?", "What can you do?", "Thank you!"])
def test_conversation_is_sentences_that_end(reference: Reference, text: str) -> None:
    reply = ask(reference, text)
    assert reply.endswith("<|eot_id|>")
    assert reply.removesuffix("<|eot_id|>")[-1] in ".!?"


def test_what_it_knows(reference: Reference) -> None:
    reply = ask(reference, "What is the capital of France?")
    assert reply == "The capital of France is Paris.<|eot_id|>"


@pytest.mark.parametrize("city", ["Paris", "London", "Tokyo"])
def test_a_declared_tool_is_called(reference: Reference, city: str) -> None:
    reply = ask(reference, f"What is the weather in {city}?", tools=[WEATHER])
    call = json.loads(reply.removesuffix("<|eot_id|>"))
    assert call == {"name": "get_weather", "parameters": {"city": city}}


def test_no_tool_is_called_without_need(reference: Reference) -> None:
    assert "{" not in ask(reference, "What is the weather in Paris?")
    assert ask(reference, "Hello!", tools=[WEATHER]) == "Hello! How can I help you?<|eot_id|>"


def test_a_result_is_put_in_words(reference: Reference) -> None:
    call = {"name": "get_weather", "arguments": {"city": "Paris"}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": '{"temperature": 18, "condition": "sunny"}'},
    ]
    reply = reference.answer(messages, tools=[WEATHER])
    assert reply == "The temperature is 18 and the condition is sunny.<|eot_id|>"


def test_json_about_a_picture(reference: Reference) -> None:
    page = next(page for page, question in exam.questions(9, 1) if question.topic == "colour")
    reply = reference.look(
        page.image(), "Describe the shape as JSON with the keys shape and color."
    )
    assert set(json.loads(reply)) == {"shape", "color"}
