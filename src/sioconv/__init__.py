"""SioConv: build your own language model on the recurrence c_t = a_t * c_{t-1} + z_t.

Importing it makes transformers' Auto classes know the model; neither torch nor transformers is imported for that.
"""

from sioconv import model as model

__version__ = "0.1.0"
