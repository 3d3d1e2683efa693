"""What the tests want of tools and of answers of a form."""

from typing import Literal, Optional

from pydantic import BaseModel, ConfigDict, Field

# The base and an adapter, which know nothing of tools or JSON.
MODELS = ["demo", "subtract"]

QUESTION = "17 @ 5 ="

# One call and nothing else.
ONE = {"tool_choice": "required", "parallel_tool_calls": False}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Add(Strict):
    """Adds."""

    a: int = Field(ge=0, le=99)
    operator: Literal["+", "-"]


class Colour(Strict):
    """Mixes a colour."""

    name: Literal["red", "green"]
    shade: str = Field(max_length=4)


class Step(Strict):
    word: str = Field(max_length=3)
    done: bool


class Sum(Strict):
    """What comes out."""

    total: int = Field(ge=-50, le=50)
    certainty: Literal["low", "high"]
    steps: list[Step] = Field(max_length=2)
    note: Optional[str] = Field(max_length=5)


TOOLS = {"Add": Add, "Colour": Colour}
