"""What clients may ask for: the bodies of requests. A field that isn't here is refused by its name."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sioconv.errors import UserError
from sioconv.generate.config import LARGEST_SEED, SamplingConfig
from sioconv.generate.constraint import Form
from sioconv.serve.config import ServeConfig
from sioconv.serve.errors import ApiError, of_user_error

# The keys of transformers' generation configuration that are settings here, and those that say nothing of a reply.
OF_TRANSFORMERS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty", "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens",
}  # fmt: skip
OF_NO_ACCOUNT = ("transformers_version", "eos_token_id", "bos_token_id", "pad_token_id", "use_cache")
StopString = Annotated[str, Field(max_length=1000)]
Stop = StopString | Annotated[list[StopString], Field(max_length=64)] | None


class Body(BaseModel):
    """A body of JSON. Types are taken as they are; a field that is null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, values: Any) -> Any:
        """OpenAI's clients send null for what isn't set."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class Schema(Body):
    """A JSON schema by its name; the reply follows it whether `strict` is set or not."""

    name: str
    # In Python `schema` is a method of pydantic's.
    form: dict[str, Any] = Field({}, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextFormat(Body):
    """Free text, or any JSON object."""

    type: Literal["text", "json_object"]


class ChatSchemaFormat(Body):
    """JSON after a schema, as chat completions ask for it."""

    type: Literal["json_schema"]
    json_schema: Schema


class ResponseSchemaFormat(Schema):
    """JSON after a schema, as responses ask for it."""

    type: Literal["json_schema"]


Format = TextFormat | ChatSchemaFormat | ResponseSchemaFormat | None


class Sampled(Body):
    """What all requests that write have in common."""

    model: str
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] = {}
    user: str | None = None  # these four change nothing here
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    # What OpenAI's API doesn't have.
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    regex: str | None = None
    choice: list[str] = []
    persona: str | None = None

    def form(self, format: Format = None) -> Form | None:
        """What the reply must be; None for anything. Raises ApiError where more than one form is asked for."""
        schema: dict[str, Any] | None = None
        if isinstance(format, ChatSchemaFormat):
            schema = format.json_schema.form
        elif isinstance(format, ResponseSchemaFormat):
            schema = format.form
        elif format is not None and format.type == "json_object":
            schema = {"type": "object"}
        try:
            return Form.of(schema, self.regex, self.choice)
        except UserError as error:
            raise of_user_error(error, "choice" if self.choice else "regex") from error

    def sampling(self, name: str, stop: Stop, config: ServeConfig, model: Any) -> SamplingConfig:
        """The settings of a reply: those of the request, then those of the model's folder, then ours.

        Args:
            name: the field that says how many tokens it may have.
            stop: strings that end it.
            config: the server's limits.
            model: the one that replies; its `generation_config` is read.

        Raises:
            ApiError, UserError: a value is out of its range.
        """
        most: int | None = getattr(self, name)
        if most is not None and not 1 <= most <= config.max_new_tokens:
            raise ApiError(400, f"{name} is {most}: this server takes 1 to {config.max_new_tokens}", name)
        default = SamplingConfig()
        given = {field for field in self.model_fields_set if getattr(self, field) is not None}
        asked = SamplingConfig(
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=default.top_p if self.top_p is None else self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            typical_p=self.typical_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_by_id(self.logit_bias),
            min_new_tokens=self.min_tokens,
            max_new_tokens=most or max(config.default_new_tokens, min(self.min_tokens, config.max_new_tokens)),
            seed=self.seed,
            stop=[] if stop is None else [stop] if isinstance(stop, str) else stop,
        )
        return asked.with_defaults(model.generation_config, given)


class StreamOptions(Body):
    """What a stream says besides its text."""

    include_usage: bool = False


class Toolless(Body):
    """Clients that have no tools say so; any tool is refused."""

    tools: Annotated[list[Any], Field(max_length=0)] = []
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None


class ChatRequest(Sampled, Toolless):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(max_length=100_000)]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int = 1
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[TextFormat | ChatSchemaFormat, Field(discriminator="type")] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: bool = True
    # What OpenAI's API doesn't have.
    state: str | None = None
    return_state: bool = False
    generation_config: str | None = None  # of `transformers chat`

    def settled(self) -> "ChatRequest":
        """The same request with what its `generation_config` says. Raises ApiError where that can't be done."""
        if self.generation_config is None:
            return self
        try:
            said = json.loads(self.generation_config)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "generation_config isn't JSON", "generation_config") from error
        given = {k: v for k, v in said.items() if v is not None and k not in OF_NO_ACCOUNT} if said else {}
        if strange := sorted(set(given) - set(OF_TRANSFORMERS) - {"do_sample"}):
            message = f"generation_config has {strange[0][:40]}, which isn't supported: leave it out"
            raise ApiError(400, message, "generation_config", "unsupported_parameter")
        values = {OF_TRANSFORMERS[key]: value for key, value in given.items() if key != "do_sample"}
        if given.get("do_sample") is False:
            values["temperature"] = 0.0
        try:
            return ChatRequest.model_validate({**self.model_dump(exclude_unset=True, by_alias=True), **values})
        except ValidationError as error:
            problem = f"generation_config: {error.errors()[0]['msg']}"
            raise ApiError(400, problem, "generation_config") from error


class CompletionRequest(Sampled):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = None
    n: int = 1
    stop: Stop = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    state: str | None = None
    return_state: bool = False


class ResponseText(Body):
    """The form of a response's text."""

    format: Annotated[TextFormat | ResponseSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["medium"] | None = None


class ResponseStreamOptions(Body):
    """What a stream of events says besides."""

    include_obfuscation: Literal[False] = False


class ConversationName(Body):
    """A conversation by its id."""

    id: str


class ResponseRequest(Sampled, Toolless):
    """The body of `POST /v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    store: bool | None = None
    max_output_tokens: int | None = None
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    text: ResponseText | None = None
    include: list[Literal["message.output_text.logprobs"]] = []
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None


class ConversationRequest(Body):
    """The body of `POST /v1/conversations`."""

    items: list[dict[str, Any]] = []
    metadata: dict[str, str] = {}


class ModelName(Body):
    """The body of `POST /load_model`."""

    model: str


class TokenizeRequest(Body):
    """The body of `POST /tokenize`: a text, or a conversation."""

    model: str
    text: str | None = None
    messages: list[dict[str, Any]] | None = None


class DetokenizeRequest(Body):
    """The body of `POST /detokenize`."""

    model: str
    tokens: list[int]


def _by_id(bias: dict[str, float]) -> dict[int, float]:
    if any(not key.isascii() or not key.isdigit() or len(key) > 10 for key in bias):
        raise ApiError(400, "logit_bias: its keys aren't all token ids", "logit_bias")
    return {int(key): value for key, value in bias.items()}
