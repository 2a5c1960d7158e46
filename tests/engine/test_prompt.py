"""The prompt's layout against the published template's, and callers who try to forge one."""

from datetime import date

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from serving.catalog import Catalog
from serving.core import Generation, Image, Message, RawPrompt, Tool, ToolCall
from serving.engine.prompt import Mark, Prompter, layout

CHECKPOINT = next(iter(Catalog.read().models.values())).checkpoint
TODAY = date(2026, 3, 7)
PICTURE = Image(b"")
WEATHER = Tool(
    "weather",
    "Tells the weather — jetzt",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALL = Message("assistant", (), (ToolCall("weather", {"city": "Zürich"}),))


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter.load(CHECKPOINT)


@pytest.fixture(scope="module")
def reference():
    """The checkpoint's tokenizer with its own chat template."""
    return AutoTokenizer.from_pretrained(CHECKPOINT)


def user(*content: str | Image) -> Message:
    return Message("user", content)


def generation(*messages: Message, tools: tuple[Tool, ...] = ()) -> Generation:
    return Generation("id", "model", messages, tools=tools)


def as_dict(message: Message) -> dict:
    """The message as chat templates take it."""
    if message.tool_calls:
        call = message.tool_calls[0]
        function = {"name": call.name, "arguments": dict(call.arguments)}
        return {"role": message.role, "tool_calls": [{"type": "function", "function": function}]}
    parts = [
        {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part}
        for part in message.content
    ]
    plain = len(parts) == 1 and parts[0]["type"] == "text"
    return {"role": message.role, "content": parts[0]["text"] if plain else parts}


def schema(tool: Tool) -> dict:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(generation(user("Hello")), id="text"),
        pytest.param(generation(user("  kept as it is\n")), id="untrimmed-user"),
        pytest.param(generation(Message("system", (" Be brief. ",)), user("Hi")), id="system"),
        pytest.param(
            generation(user("Hi"), Message("assistant", ("Yes?",)), user("No")), id="chat"
        ),
        pytest.param(generation(user(PICTURE, "What is it?")), id="picture"),
        pytest.param(generation(user("Is", PICTURE, "like", PICTURE)), id="two-pictures"),
        pytest.param(
            generation(Message("system", ("Be brief.",)), user(PICTURE, "What?")),
            id="system-and-picture",
        ),
        pytest.param(generation(user(" Rain? "), tools=(WEATHER, WEATHER)), id="tools"),
        pytest.param(generation(user(PICTURE, "Rain? "), tools=(WEATHER,)), id="tools-and-picture"),
        pytest.param(
            generation(
                Message("system", ("Be brief.",)),
                user("Rain?"),
                CALL,
                Message("tool", ('{"rain": "öfter"}',)),
                Message("assistant", ("Often.",)),
                user("And now?"),
                tools=(WEATHER,),
            ),
            id="tool-round-trip",
        ),
    ],
)
def test_tokens_are_those_of_the_template(prompter, reference, made):
    """Our layout and the checkpoint's template give the same token ids."""
    expected = reference.apply_chat_template(
        [as_dict(message) for message in made.prompt],
        tools=[schema(tool) for tool in made.tools] or None,
        date_string="07 Mar 2026",
        add_generation_prompt=True,
        return_dict=False,
    )
    assert expected == prompter.tokens(made, TODAY)


def test_callers_cannot_write_marks(prompter):
    """Every mark in the caller's text is ordinary characters, wherever the text goes."""
    forged = "".join(Mark)
    made = generation(
        Message("system", (forged,)),
        user(forged, PICTURE),
        Message("assistant", (), (ToolCall(forged, {forged: forged}),)),
        Message("tool", (forged,)),
        tools=(Tool(forged, forged, {forged: forged}),),
    )
    honest = generation(
        Message("system", ("a",)),
        user("a", PICTURE),
        Message("assistant", (), (ToolCall("a", {"a": "a"}),)),
        Message("tool", ("a",)),
        tools=(Tool("a", "a", {"a": "a"}),),
    )
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    for mark in Mark:
        id_ = tokenizer.token_to_id(mark)
        counts = [prompter.tokens(which, TODAY).count(id_) for which in (made, honest)]
        assert counts[0] == counts[1]


def test_a_raw_prompt_is_left_alone(prompter):
    """Begin, one mark per image, and the text: no template."""
    made = Generation("id", "model", RawPrompt("Once upon", (PICTURE, PICTURE)))
    assert list(layout(made, TODAY)) == [Mark.BEGIN, Mark.IMAGE, Mark.IMAGE, "Once upon"]
    assert 3 < len(prompter.tokens(made, TODAY)) < 12


def test_half_a_surrogate_pair_is_replaced(prompter):
    """JSON can carry a lone surrogate, which no encoding of the text can."""
    broken = prompter.tokens(generation(user("a\ud800b")), TODAY)
    assert prompter.tokens(generation(user("a?b")), TODAY) == broken


def test_tools_without_a_user_are_declared_all_the_same():
    """The declaration gets a turn of its own."""
    made = generation(Message("assistant", ("Hello!",)), tools=(WEATHER,))
    text = "".join(layout(made, TODAY))
    assert text.index("Given the following functions") < text.index("Hello!")


def test_a_tokenizer_of_another_family_is_refused():
    """The error names the missing token."""
    from tokenizers import models

    with pytest.raises(ValueError, match=r"no <\|begin_of_text\|> token"):
        Prompter(Tokenizer(models.BPE()))
