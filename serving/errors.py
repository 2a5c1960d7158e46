"""What can go wrong, in the words of the domain. Statuses and codes are the dialects' business.

    ServingError
    ├── BadRequest           the caller must change the request
    │   ├── MalformedBody    the body is not a JSON object
    │   ├── InvalidInput     a field breaks the published schema
    │   ├── InvalidImage     an image cannot be decoded, or there are too many
    │   ├── UnknownModel     no such model in the catalogue
    │   └── ContextExceeded  prompt and output do not fit the context window
    ├── Unauthenticated      no credentials, or not understood
    ├── Forbidden            credentials that do not open this account
    ├── Overloaded           try again later
    └── EngineFailed         the engine died or broke on this request
"""


class ServingError(Exception):
    """Base of everything this package raises on purpose. `str(error)` is fit for the caller."""


class BadRequest(ServingError):
    """The request can never succeed as it is."""


class MalformedBody(BadRequest):
    """The body is not a JSON object."""


class InvalidInput(BadRequest):
    """A field is missing, of the wrong type or out of range."""


class InvalidImage(BadRequest):
    """An image cannot be decoded, is too large, or there are more than the model takes."""


class UnknownModel(BadRequest):
    """The catalogue holds no such model."""

    def __init__(self, model: str) -> None:
        super().__init__(f"No such model {model} or task")
        self.model = model


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


class Forbidden(ServingError):
    """The credentials are not those of this account."""


class Overloaded(ServingError):
    """No room now. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailed(ServingError):
    """The engine broke; the details are in the server's log, not in the answer."""
