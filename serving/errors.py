"""What can go wrong, in the words of the domain. Statuses and codes are the dialects' business.

ServingError
├── Unroutable           the address leads nowhere
│   ├── UnknownPath      nothing here has such a path
│   ├── UnknownObject    no such thing under an account, or a malformed account
│   └── MethodRefused    the path is right, the verb is not
├── BadRequest           the caller must change the request
│   ├── MissingBody      there is no body
│   ├── BodyTooLarge     the body is longer than this deployment reads
│   ├── MalformedBody    the body is not JSON
│   ├── InvalidInput     a field breaks the published schema
│   │   ├── InvalidChoice  `tool_choice` is none of the choices
│   │   └── InvalidAdapter  a file of an adapter cannot be used
│   ├── InvalidImage     an image cannot be decoded, or there are too many
│   │   └── NotAnImage   an image field holds neither bytes nor text
│   ├── UnknownModel     no such model in the catalogue
│   ├── UnknownEntry     nothing to show of a model that is not in the catalogue
│   ├── LoraUnsupported  the model takes no adapters
│   ├── UnknownAdapter   the account has no such adapter
│   ├── AdapterIncomplete  one of an adapter's files has not been uploaded
│   └── ContextExceeded  prompt and output do not fit the context window
├── Unauthenticated      no credentials, or not understood
│   └── WrongToken       well-formed credentials that nobody holds
├── Forbidden            credentials that do not open this account
│   ├── AccountDisabled  the account is switched off
│   └── NotPermitted     the token lacks the scope or the role for this
├── NotAgreed            the account has not agreed to the model's licence yet
│   └── Agreed           it just did, which the API answers with an error too
├── Overloaded           try again later
│   ├── RateLimited      more requests, tokens or connections than the account may use now
│   ├── QuotaSpent       the day's or month's tokens or money are used up
│   ├── StoreDown        what must be asked before serving cannot be reached
│   └── EngineDown       the engine had died before the request came to it
├── TimedOut             the caller's own time for an answer to begin has passed
├── JsonNotMet           the model's answer is not the JSON that was asked for
└── EngineFailed         the engine died or broke on this request
"""


class ServingError(Exception):
    """Base of everything this package raises on purpose. `str(error)` is fit for the caller."""


class Unroutable(ServingError):
    """The address of the request leads nowhere."""


class UnknownPath(Unroutable):
    """Nothing in this service has such a path."""

    def __init__(self) -> None:
        super().__init__("No route for that URI")


class UnknownObject(Unroutable):
    """An account's id is malformed, or there is no such thing under the account."""

    def __init__(self, path: str) -> None:
        super().__init__(f"Could not route to {path}, perhaps your object identifier is invalid?")


class MethodRefused(Unroutable):
    """The path exists and takes another verb: `allowed`."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} not supported for requested URI.")
        self.allowed = allowed


class BadRequest(ServingError):
    """The request can never succeed as it is."""


class MissingBody(BadRequest):
    """There is no body, or no header, where one is needed; `what` names it."""

    def __init__(self, what: str = "body") -> None:
        super().__init__(f"Request is missing headers or body: {what}")


class BodyTooLarge(BadRequest):
    """The body is longer than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"Request is too large, the limit is {limit} bytes")
        self.limit = limit


class MalformedBody(BadRequest):
    """The body is not JSON."""


class InvalidInput(BadRequest):
    """A field is missing, of the wrong type or out of range."""


class InvalidChoice(InvalidInput):
    """`tool_choice` is none of those there are."""

    def __init__(self) -> None:
        super().__init__("Invalid input")


class InvalidAdapter(InvalidInput):
    """A file of an adapter is not what it must be, or not for this model."""


class InvalidImage(BadRequest):
    """An image cannot be decoded, is too large, or there are more than the model takes.

    The text says why: `reason invalid base64 encoding`.
    """


class NotAnImage(InvalidImage):
    """An image field holds neither bytes nor text; `found` is its JSON type."""

    def __init__(self, found: str) -> None:
        super().__init__(f"Invalid data type for base64 input: {found}")


class UnknownModel(BadRequest):
    """The catalogue holds no such model."""

    def __init__(self, model: str) -> None:
        super().__init__(f"No such model {model} or task")
        self.model = model


class UnknownEntry(BadRequest):
    """The catalogue has no page about such a model."""

    def __init__(self) -> None:
        super().__init__("The model name is invalid")


class LoraUnsupported(BadRequest):
    """An adapter was asked for and the model takes none."""

    def __init__(self, model: str) -> None:
        super().__init__(f"The model {model} does not support LoRA")


class UnknownAdapter(BadRequest):
    """The account has no such adapter, by name or id."""

    def __init__(self, asked: str) -> None:
        super().__init__(f"No such finetune {asked}")


class AdapterIncomplete(BadRequest):
    """An adapter is asked for whose files are not both there."""

    def __init__(self) -> None:
        super().__init__(
            "Finetune is missing required files (adapter_model.safetensors and adapter_config.json)"
        )


class ContextExceeded(BadRequest):
    """The prompt and the longest answer asked for exceed the context window (all in tokens)."""

    def __init__(self, asked: int, limit: int) -> None:
        super().__init__(
            f"The estimated number of input and maximum output tokens ({asked}) "
            f"exceeded this model context window limit ({limit})."
        )
        self.asked, self.limit = asked, limit


class Unauthenticated(ServingError):
    """No credentials came with the request, or nothing that looks like any."""


class WrongToken(Unauthenticated):
    """Well-formed credentials that nobody holds."""


class Forbidden(ServingError):
    """The credentials are not those of this account."""


class AccountDisabled(Forbidden):
    """The account was switched off by the operator."""

    def __init__(self) -> None:
        super().__init__("Service unavailable for account")


class NotPermitted(Forbidden):
    """A good token without the scope, or the role, for what it asks."""

    def __init__(self) -> None:
        super().__init__("Unauthorized to access requested resource")


class NotAgreed(ServingError):
    """The account must agree to the model's licence before it uses the model."""

    def __init__(self, terms: str) -> None:
        super().__init__(
            "Prior to using this model, you must submit the prompt 'agree'. "
            f"By submitting it you accept the model's terms: {terms}"
        )


class Agreed(NotAgreed):
    """The account has agreed with this request; the next one is served."""

    def __init__(self) -> None:
        Exception.__init__(
            self,
            "Thank you for agreeing to this model's terms. You may now use the model.",
        )


class Overloaded(ServingError):
    """No room now. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """The caller is over a limit that frees itself within minutes. `what` names it."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(f"rate limiting: inference {what} reached", retry_after)


class QuotaSpent(Overloaded):
    """The caller's allocation of a day or a month is used up. `what` names it."""

    def __init__(self, what: str, retry_after: float) -> None:
        super().__init__(f"you have used up your allocation of {what}", retry_after)


class StoreDown(Overloaded):
    """The database or the shared limits cannot be reached, and nothing known says what to do."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("Service temporarily unavailable, please try again.", retry_after)


class EngineDown(Overloaded):
    """The engine is dead and never saw this request: another replica may serve it.

    `loading` is how many seconds the next engine takes until it serves, if that is known.
    """

    def __init__(self, loading: float = 1.0) -> None:
        super().__init__("Service temporarily unavailable, please try again.", loading)


class TimedOut(ServingError):
    """The answer has not begun in the time that the caller allows for it."""

    def __init__(self) -> None:
        super().__init__("Provider request timeout")


class JsonNotMet(ServingError):
    """The caller asked for JSON and the model's answer is none, for instance cut short."""

    def __init__(self) -> None:
        super().__init__("JSON Mode couldn't be met")


class EngineFailed(ServingError):
    """The engine broke; the details are in the server's log, not in the answer."""
