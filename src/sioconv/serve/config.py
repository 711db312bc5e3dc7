"""What a server may take, keep and give."""

from dataclasses import dataclass

from sioconv.errors import UserError

DAY = 24 * 3600.0


@dataclass(frozen=True)
class ServeConfig:
    """Limits of a server.

    Args:
        max_body: most bytes of a request.
        body_seconds: a request must have come whole after so long.
        max_prompt_tokens: most tokens of a prompt, those that needn't be read again included.
        max_new_tokens: most tokens of a reply.
        default_new_tokens: most tokens of a reply whose request doesn't say.
        max_n: most replies to one request.
        max_seconds: a request that runs for longer is ended.
        texts: replies that are written at once, of each model; more wait.
        queue: replies that may wait, of each model; more are told to come again.
        key_texts: replies that one API key may have running or waiting; without keys, one address.
        key_rate: requests that one API key may send in a minute; without keys, one address; 0 for no limit.
        grace: seconds that replies have to end by themselves when the server is stopped.
        ttl: seconds after which a state or response that wasn't used again is forgotten.
        memory: bytes of states in memory.
        disk: bytes of states in the store's file.

    Raises:
        UserError: a value is out of its range.
    """

    max_body: int = 16 * 2**20
    body_seconds: float = 60.0
    max_prompt_tokens: int = 262_144
    max_new_tokens: int = 4096
    default_new_tokens: int = 512
    max_n: int = 16
    max_seconds: float = 600.0
    texts: int = 64
    queue: int = 512
    key_texts: int = 256
    key_rate: int = 0
    grace: float = 30.0
    ttl: float = 30 * DAY
    memory: int = 256 * 2**20
    disk: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("queue", "key_rate", "grace", "memory") else 1
            if not least <= value < float("inf"):
                raise UserError(f"{name} out of range: {value}: give a number from {least} up")
        if self.default_new_tokens > self.max_new_tokens:
            raise UserError(
                f"default_new_tokens {self.default_new_tokens} is over max_new_tokens {self.max_new_tokens}: "
                "give a smaller one"
            )
        if self.texts > 256:
            raise UserError(f"texts out of range: {self.texts}: give a number from 1 to 256")
