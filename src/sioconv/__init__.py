"""SioConv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t.

After `import sioconv`, transformers' Auto classes know the model, whichever of the two was imported first; transformers
itself is not imported.
"""

from typing import TYPE_CHECKING

from sioconv.hooks import set_hooks
from sioconv.lazy import lazy_names

if TYPE_CHECKING:
    from sioconv import data as data
    from sioconv import evaluate as evaluate
    from sioconv import generate as generate
    from sioconv import model as model
    from sioconv import ops as ops
    from sioconv import recipe as recipe
    from sioconv import train as train

__version__ = "0.1.0"

_PARTS = ("data", "evaluate", "generate", "model", "ops", "recipe", "train")
__all__ = ["__version__", *_PARTS]

if not TYPE_CHECKING:  # or a type checker would take any name for one of these
    __getattr__, __dir__ = lazy_names(__name__, {name: name for name in _PARTS})

set_hooks()
del set_hooks
