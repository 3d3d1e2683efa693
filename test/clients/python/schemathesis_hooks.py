"""Fields that depend on each other, as the descriptions in openapi.yaml say and the schemas do not.

Requests that are to be accepted heed them, or the server would see little else of most of them than
the first contradiction. Requests that are to be refused are sent as they were generated.
"""

import schemathesis


def keep_one(body: dict, *names: str) -> None:
    """Drops all of the fields that have a value but the first."""
    for name in [name for name in names if body.get(name) is not None][1:]:
        del body[name]


def one_form(body: dict) -> None:
    """Leaves at most one field that gives the answer its form, the rarest of them."""
    outputs = body.get("structured_outputs")
    if isinstance(outputs, dict):
        keep_one(outputs, "structural_tag", "grammar", "regex", "json_object", "json", "choice")
        if all(value is None for value in outputs.values()):
            del body["structured_outputs"]
    format = body.get("response_format")
    if isinstance(format, dict):
        if format.get("type") == "text":
            del body["response_format"]
        elif format.get("type") == "json_object":
            format.pop("json_schema", None)
    # An empty text is no choice: what the examples of the other fields are made with.
    if body.get("guided_choice") == [""]:
        del body["guided_choice"]
    forms = ("structured_outputs", "response_format", "guided_regex", "guided_grammar")
    keep_one(body, *forms, "guided_json", "guided_choice")
    if any(body.get(name) is not None for name in (*forms, "guided_json", "guided_choice")):
        for name in ("allowed_token_ids", "bad_words", "tools", "tool_choice", "min_tokens"):
            body.pop(name, None)


def generation(body: dict) -> None:
    one_form(body)
    known_adapters(body)
    if body.get("adapter") == "":
        del body["adapter"]
    keep_one(body, "adapter", "adapters")
    keep_one(body, "adapters", "adapter_scale")
    keep_one(body, "max_completion_tokens", "max_tokens")
    if body.get("stream") is not True:
        body.pop("stream_options", None)
    # Of a prompt of which no token is kept there is nothing to say but that.
    if body.get("truncate_prompt_tokens") in (None, 0):
        body.pop("truncate_prompt_tokens", None)
        body.pop("truncation_side", None)
    if body.get("logprobs") is not True and "messages" in body:
        body.pop("top_logprobs", None)
    if body.get("continue_final_message") is True:
        body["add_generation_prompt"] = False
    if not body.get("tools"):
        body.pop("tool_choice", None)
    if (body.get("best_of") or 1) < (body.get("n") or 1):
        body.pop("best_of", None)
    # Templates in requests are off, as they are without an option.
    body.pop("chat_template", None)


def response(body: dict) -> None:
    generation(body)
    text = body.get("text") or {}
    if (text.get("format") or {}).get("type") in ("json_object", "json_schema"):
        forms = ("structured_outputs", "guided_regex", "guided_grammar", "guided_json")
        beside = ("guided_choice", "allowed_token_ids", "bad_words", "min_tokens")
        for name in (*forms, *beside, "tools", "tool_choice"):
            body.pop(name, None)
    if "message.output_text.logprobs" not in (body.get("include") or []):
        body.pop("top_logprobs", None)
    items = body.get("input")
    if isinstance(items, list):
        for item in items:
            if item.get("type") == "function_call":
                item["arguments"] = "{}"
        made = {item.get("call_id") for item in items if item.get("type") == "function_call"}
        outputs = [item for item in items if item.get("type") == "function_call_output"]
        lost = [item for item in outputs if item["call_id"] not in made]
        calls = [{"type": "function_call", "call_id": item["call_id"]} for item in lost]
        body["input"] = [call | {"name": "f", "arguments": "{}"} for call in calls] + items


def tokenize(body: dict) -> None:
    chat = ("tools", "documents", "chat_template", "chat_template_kwargs")
    if "prompt" not in body and "messages" not in body:
        body["prompt"] = "17 @ 5 ="
    elif "prompt" in body and "messages" in body:
        del body["prompt" if any(name in body for name in chat) else "messages"]
    if "prompt" in body:
        for name in (*chat, "add_generation_prompt", "continue_final_message"):
            body.pop(name, None)
    # Templates in requests are off, as they are without an option.
    body.pop("chat_template", None)


def source(body: dict) -> None:
    if not any(name in body for name in ("path", "repo", "url")):
        body["path"] = "team/subtract"
    keep_one(body, "path", "repo", "url")
    if "repo" not in body:
        body.pop("revision", None)
        body.pop("subfolder", None)


def load_lora(body: dict) -> None:
    if body.get("expected_generation") is not None:
        body["load_inplace"] = True
    body.pop("base_model_name", None)
    of_the_lost(body)


# The adapter of the examples stays, so that requests come further than its absence; the other
# one comes and goes.
KEPT, LOST = "subtract", "product-plus"


def known_adapters(body: dict) -> None:
    for part in body.get("adapters") or []:
        if part.get("generation") == "0" * 64 or part.get("name") == "":
            part.pop("generation", None)
            part["name"] = KEPT


def of_the_lost(body: dict) -> None:
    if body.get("lora_name") == KEPT:
        body["lora_name"] = LOST


BODIES = {
    "/v1/completions": generation,
    "/v1/chat/completions": generation,
    "/v1/responses": response,
    "/tokenize": tokenize,
    "/v1/adapters/{name}": source,
    "/v1/adapters/{name}/load": lambda body: keep_one(body, "generation", "pinned"),
    "/v1/load_lora_adapter": load_lora,
    "/v1/unload_lora_adapter": of_the_lost,
    "/load_lora_adapter": of_the_lost,
    "/unload_lora_adapter": of_the_lost,
}


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    heed = BODIES.get(case.operation.path)
    is_json = case.media_type == "application/json"
    if heed is not None and is_json and isinstance(case.body, dict):
        heed(case.body)
    path = case.path_parameters or {}
    if case.operation.label == "DELETE /v1/adapters/{name}" and path["name"] == KEPT:
        path["name"] = LOST
    headers = case.headers or {}
    if "If-None-Match" in headers:
        # A name that is to be new has nothing to share.
        is_canary = "canary_weight" in (case.query or {})
        headers.pop("If-None-Match" if is_canary else "If-Match", None)
