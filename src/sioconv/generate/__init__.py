"""From a model to text: the choice of the next token, streaming, sessions that can be saved, chat.

Names are imported when they are first asked for: `SamplingConfig` needs neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from sioconv.lazy import lazy_names

if TYPE_CHECKING:
    from sioconv.generate.config import SamplingConfig as SamplingConfig
    from sioconv.generate.constraint import Form as Form
    from sioconv.generate.constraint import Grammar as Grammar
    from sioconv.generate.constraint import Grammars as Grammars
    from sioconv.generate.engine import Engine as Engine
    from sioconv.generate.engine import Event as Event
    from sioconv.generate.engine import Reading as Reading
    from sioconv.generate.engine import Request as Request
    from sioconv.generate.sampling import Sampler as Sampler
    from sioconv.generate.session import Session as Session
    from sioconv.generate.states.state import State as State
    from sioconv.generate.states.store import SqliteFile as SqliteFile
    from sioconv.generate.states.store import StateStore as StateStore
    from sioconv.generate.terminal import chat_loop as chat_loop
    from sioconv.generate.text_stream import TextStream as TextStream
    from sioconv.generate.texts import Generation as Generation
    from sioconv.generate.texts import continue_text as continue_text
    from sioconv.generate.texts import generate_text as generate_text
    from sioconv.generate.vocabulary import Vocabulary as Vocabulary

_HOMES = {
    "SamplingConfig": "config",
    "Sampler": "sampling",
    "TextStream": "text_stream",
    "Vocabulary": "vocabulary",
    "Form": "constraint",
    "Grammar": "constraint",
    "Grammars": "constraint",
    "Engine": "engine",
    "Event": "engine",
    "Reading": "engine",
    "Request": "engine",
    "State": "states.state",
    "StateStore": "states.store",
    "SqliteFile": "states.store",
    "Session": "session",
    "Generation": "texts",
    "generate_text": "texts",
    "continue_text": "texts",
    "chat_loop": "terminal",
}
__all__ = list(_HOMES)

if not TYPE_CHECKING:  # or a type checker would take any name for one of these
    __getattr__, __dir__ = lazy_names(__name__, _HOMES)
