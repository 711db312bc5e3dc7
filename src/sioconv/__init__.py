"""SioConv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t.

After `import sioconv`, transformers' Auto classes know the model, whichever of the two was imported first; transformers
itself is not imported.
"""

from importlib import import_module

from wrapt import register_post_import_hook

__version__ = "0.1.0"

# The configuration registers itself, and the model classes when one is made.
register_post_import_hook(
    lambda _: import_module("sioconv.model.configuration"), "transformers.models.auto.configuration_auto"
)
