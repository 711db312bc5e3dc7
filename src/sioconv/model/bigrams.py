"""A summand of the embedding that depends on the token before too: a row of a hashed table, projected."""

from torch import Tensor, nn

from sioconv.model.architecture import Architecture
from sioconv.model.convolution import Steps, past_inputs
from sioconv.ops import fast_products

# The table's start, as it was measured. Not `embedding_std`, which is 1 in some presets: the projection starts at 0, so
# the table's size is that of the projection's first gradients.
TABLE_STD = 0.02
NO_TOKEN = -1  # in the place of the token before, where a text begins


class Bigrams(nn.Module):
    """Linear_out(B[h(y_t, y_{t-1})]) with h = (36313 y_t + 27191 (y_{t-1} + 1)) mod rows.

    Where a document begins, 0 stands for y_{t-1} + 1. Pairs that share a row can't be told apart; the embedding, which
    this is added to, knows y_t. Linear_out starts at exactly 0, so that a new model is as one without the table.

    Args:
        config: `bigram_rows`, `bigram_width` and `hidden_size` are read.
        vocab_size: V; the table has `bigram_rows` V rows.
    """

    def __init__(self, config: Architecture, vocab_size: int) -> None:
        super().__init__()
        self.rows = config.bigram_rows * vocab_size
        self.table = nn.Embedding(self.rows, config.bigram_width)
        self.out = nn.Linear(config.bigram_width, config.hidden_size, bias=False)

    def forward(self, ids: Tensor, last: Tensor | None, steps: Steps) -> tuple[Tensor, Tensor]:
        """The summand of each token.

        Args:
            ids: [B, T], integers.
            last: the token before them, int64 [B], NO_TOKEN where there is none; None where no row has one.
            steps: padding, which is no token, and beginnings of documents.

        Returns:
            [B, T, D] in the dtype of the products, of no meaning at padding; and the last token, int64 [B].
        """
        ids = ids.long()  # their products with the hash's factors are beyond 32 bits
        tail = None if last is None else (last - NO_TOKEN).to(ids.device).view(-1, 1, 1)
        (before,), new_tail = past_inputs((ids + 1).unsqueeze(-1), tail, 1, steps)  # [B, T, 1], 0 for none
        rows = self.table((ids * 36313 + before.squeeze(-1) * 27191) % self.rows)  # [B, T, bigram_width]
        with fast_products(rows):
            summand: Tensor = self.out(rows)
        return summand, new_tail.flatten() + NO_TOKEN
