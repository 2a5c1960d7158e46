"""What a request declares, and whether it must be called."""

from typing import Any

import pytest

from serving.core import Tool
from serving.errors import InvalidChoice, InvalidInput
from serving.protocol import tools

A, B = Tool("a"), Tool("b")


def test_declarations_come_bare_nested_and_as_functions() -> None:
    bare = {"name": "a", "description": "d", "parameters": {"type": "object"}}
    nested = {"type": "function", "function": {"name": "b"}}
    declared = tools.parse([bare, nested], [{"name": "c", "code": "return 1"}])
    assert declared == (Tool("a", "d", {"type": "object"}), Tool("b"), Tool("c"))


@pytest.mark.parametrize(
    ("tool", "complaint"),
    [
        ("x", "'/tools/0' must have a name"),
        ({"function": "x"}, "'/tools/0' must have a name"),
        ({"name": ""}, "'/tools/0' must have a name"),
        ({"name": "a", "parameters": [1]}, "'/tools/0' must have an object as its parameters"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(tool: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        tools.parse([tool])


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (None, ((A, B), False)),
        ("auto", ((A, B), False)),
        ("none", ((), False)),
        ("required", ((A, B), True)),
        ({"type": "function", "function": {"name": "b"}}, ((B,), True)),
    ],
)
def test_the_choice_says_which_tools_are_offered_and_whether_one_must_be_called(
    choice: Any, chosen: tools.Choice
) -> None:
    assert tools.choose((A, B), choice) == chosen


@pytest.mark.parametrize("choice", ["any", 3, {"type": "function"}, {"function": "a"}])
def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidChoice):
        tools.choose((A, B), choice)


@pytest.mark.parametrize("choice", ["required", {"function": {"name": "a"}}])
def test_a_call_cannot_be_required_of_tools_that_are_not_there(choice: Any) -> None:
    with pytest.raises(InvalidInput, match="tool_choice"):
        tools.choose((), choice)


@pytest.mark.parametrize("items", [1.0, "f", {"name": "f"}, True])
def test_declarations_that_are_no_list_are_refused(items: Any) -> None:
    with pytest.raises(InvalidInput, match="'/functions' must be an array"):
        tools.parse(None, items)
