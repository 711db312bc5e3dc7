"""How text becomes tokens: training, loading and using the tokenizer.

Byte-level byte-pair encoding within words, and in Japanese within phrases: kanji with the kana that follow them
(docs/decisions.md says what else was measured). Every text comes back as it was: all 256 bytes are tokens, nothing is
normalised, nothing is lowercased.

Text can never become a special token here. Training can't merge one together, because the split parts the marks at
its ends from the letters between them; and `encode_texts` doesn't look for them. `tokenizer("…")` of transformers does
look for them unless it is told `split_special_tokens=True`, and so does `apply_chat_template` unless it is told
`sanitize_control_tokens=True`: give them only text that you trust.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sioconv.checksums import check_sums, write_sums
from sioconv.data.amounts import at_least
from sioconv.data.config import TokenizerConfig
from sioconv.data.documents import ROLES
from sioconv.data.interruptible import interruptible
from sioconv.errors import UserError
from sioconv.files import atomic_folder, refuse_pointer, sha256_file
from sioconv.progress import say
from sioconv.tokenizer_files import TEMPLATE, check_template, write_settings

PAD, BOS, EOS, END_OF_TURN = "<|pad|>", "<|bos|>", "<|eos|>", "<|end_of_turn|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ROLES}
# Their ids are their places in this list: 0 pads, so that a buffer of zeros holds no text.
SPECIAL_TOKENS = [PAD, BOS, EOS, END_OF_TURN, *ROLE_TOKENS.values()]
BYTES = 256
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "chat_template.jinja")
RUN = 256  # characters that training takes as one word at most
LONG_RUN = re.compile(rf"\w{{{RUN}}}|[^\w\s]{{{RUN}}}")

# A token never crosses the border of two of these pieces. Order matters: the first that fits is taken.
KANA_MARKS = "ーｰ゛゜"
JAPANESE = rf"\p{{Han}}\p{{Hiragana}}\p{{Katakana}}{KANA_MARKS}"
CONTRACTIONS = r"'(?:[sdmt]|ll|ve|re)(?!\p{L})"  # it's, we'll
WORDS = rf" ?[\p{{L}}\p{{M}}&&[^{JAPANESE}]]+"  # of other scripts, with the space before them
PHRASES = rf"[\p{{Katakana}}{KANA_MARKS}]+|\p{{Han}}+[\p{{Hiragana}}{KANA_MARKS}]*|[\p{{Hiragana}}{KANA_MARKS}]+"
DIGITS = r" ?\p{N}"  # one by one, so that numbers of any length look alike
MARKS = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"  # with the end of the line that they often stand at
SPACES = r"\s+(?!\S)|\s+"
PIECES = "|".join((CONTRACTIONS, WORDS, PHRASES, DIGITS, MARKS, SPACES))

# Turns of a conversation; what is between the generation marks is what fine-tuning learns. The same in Python, safe
# against text that spells a special token, is `sioconv.data.chat`.
CHAT_TEMPLATE = """\
{%- set tokens = {
  'system': 'system', 'developer': 'system', 'user': 'user', 'tool': 'user', 'assistant': 'assistant'
} %}
{%- set known = ['role', 'content', 'tool_calls', 'tool_call_id', 'name'] %}
{%- macro said(message) %}
{%- set content = message['content'] %}
{%- if content is string %}
{{- content }}
{%- elif content is defined and content is iterable and content is not mapping %}
{%- for part in content %}
{%- if part is mapping and part['type'] == 'text' and part['text'] is string %}
{{- part['text'] }}
{%- elif part is mapping %}
{{- raise_exception('a content part of type ' + part['type'] | string + ' cannot be read: give text') }}
{%- else %}
{{- raise_exception('a content part must be an object with type and text') }}
{%- endif %}
{%- endfor %}
{%- elif not message['tool_calls'] %}
{{- raise_exception('the content of the role ' + message['role'] + ' must be text') }}
{%- endif %}
{%- endmacro %}
{%- macro called(message) %}
{%- for call in message['tool_calls'] or [] %}
{%- set function = call['function'] or call %}
{%- set arguments = function['arguments'] if function['arguments'] is defined else {} %}
{{- ('\\n' if message['content'] or not loop.first else '') + '<tool_call>\\n{"name": ' + function['name'] | tojson }}
{{- ', "arguments": ' + (arguments if arguments is string else arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{%- endmacro %}
{%- macro offered(before) %}
{{- before + '<tools>\\n' }}
{%- for tool in tools %}
{{- tool | tojson + '\\n' }}
{%- endfor %}
{{- '</tools>' }}
{%- endmacro %}
{{- bos_token }}
{%- if documents %}
{{- raise_exception('documents cannot be read: put their text into a message') }}
{%- endif %}
{%- if tools and tokens[messages[0]['role']] != 'system' %}
{{- '<|system|>' + offered('') + '<|end_of_turn|>' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] not in tokens %}
{{- raise_exception('role must be system, developer, user, assistant or tool, got ' + message['role'] | string) }}
{%- endif %}
{%- for key in message %}
{%- if key not in known and (message[key] is number or message[key]) %}
{{- raise_exception('the role ' + message['role'] + ' has ' + key + ', which cannot be read') }}
{%- endif %}
{%- endfor %}
{%- if message['tool_calls'] and message['role'] != 'assistant' %}
{{- raise_exception('only the assistant has tool_calls, got the role ' + message['role']) }}
{%- endif %}
{{- '<|' + tokens[message['role']] + '|>' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- said(message) + called(message) + '<|end_of_turn|>' }}{%- endgeneration %}
{%- elif message['role'] == 'tool' %}
{{- '<tool_response>\\n' + said(message) + '\\n</tool_response><|end_of_turn|>' }}
{%- else %}
{{- said(message) }}
{%- if loop.first and tools and tokens[message['role']] == 'system' %}
{{- offered('\\n\\n') }}
{%- endif %}
{{- '<|end_of_turn|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}
"""


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str], out: Path) -> PreTrainedTokenizerFast:
    """Trains a tokenizer on the first `config.sample_bytes` bytes of `texts` and writes it to the folder `out`.

    The same texts give the same files, byte for byte. Text that is too short for `config.vocab_size` tokens gives
    fewer; the special tokens are always there and have the ids of their places in `SPECIAL_TOKENS`.

    Raises `UserError` when there is no text or the vocabulary is too small for all bytes and special tokens.
    """
    if config.vocab_size < BYTES + len(SPECIAL_TOKENS):
        least = BYTES + len(SPECIAL_TOKENS)
        raise UserError(f"vocab_size is too small: {config.vocab_size}: set at least {least}")
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = _short_runs(_some(at_least(texts, config.sample_bytes)), split)
    interruptible(lambda: backend.train_from_iterator(pieces, trainer))
    with atomic_folder(out) as folder:
        write_tokenizer(backend, folder)
    return load_tokenizer(out)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder that `train_tokenizer` or a model's training has written.

    Raises `UserError` when it isn't there, can't be read, isn't what was written, lacks one of `SPECIAL_TOKENS`, or
    takes text for one.
    """
    if not (path / TOKENIZER_FILE).is_file():
        raise UserError(f"no tokenizer: {path}: {TOKENIZER_FILE} isn't there: train one or check the path")
    for file in TOKENIZER_FILES:
        refuse_pointer(path / file)
    check_sums(path)
    check_template(path)
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions for what it can't parse
        reason = " ".join(str(error).split())
        raise UserError(f"can't load the tokenizer: {path}: {reason}: train or copy it again") from error
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.added_tokens_encoder]
    if missing:
        raise UserError(f"not a tokenizer of this project: {path}: it lacks {', '.join(missing)}: train one")
    _check_ids(tokenizer, path)
    return tokenizer


def _check_ids(tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Refuses a tokenizer in which text could become a special token, or that has ids beyond its number of tokens."""
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(ids))):
        raise UserError(
            f"can't use the tokenizer: {path}: ids of its {len(ids):,} tokens are missing or come twice: copy it again"
        )
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    unsafe = [token for token in SPECIAL_TOKENS if token not in special]
    if unsafe:
        raise UserError(
            f"unsafe tokenizer: {path}: {unsafe[0]} isn't marked as special, so text becomes it: copy it again"
        )


def encode_texts(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """The token ids of each text; nothing is added, and nothing in a text becomes a special token."""
    encoder = _text_encoder(tokenizer)
    return [encoding.ids for encoding in encoder.encode_batch_fast(texts, add_special_tokens=False)]


def tokenizer_sha256(path: Path) -> str:
    """The SHA-256 of the folder's tokenizer.json: what token ids mean."""
    return sha256_file(path / TOKENIZER_FILE)


# transformers switches the search for special tokens on and off on the object that it shares with its caller, so
# another thread could switch it on between our switching it off and encoding. Text goes through copies of our own.
_text_encoders: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[int, Tokenizer]] = WeakKeyDictionary()


def _text_encoder(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    size, encoder = _text_encoders.get(tokenizer, (None, None))
    if encoder is None or size != len(tokenizer):
        encoder = text_encoder(tokenizer.backend_tokenizer)
        _text_encoders[tokenizer] = (len(tokenizer), encoder)
    return encoder


def text_encoder(backend: Tokenizer) -> Tokenizer:
    """A copy of a tokenizer that takes everything in a text for text."""
    encoder = Tokenizer.from_str(backend.to_str())
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True
    return encoder


def _short_runs(texts: Iterable[str], split: pre_tokenizers.PreTokenizer) -> Iterator[str]:
    """The texts, those apart that have a run of more than `RUN` characters which training would take as one word.

    Its time grows with the square of a word's length: 0.4 MB of kanji without a mark took minutes. Such a run is given
    in pieces, each a text by itself; all other text is left as it is.
    """
    cut = 0
    for text in texts:
        if not LONG_RUN.search(text):
            yield text
            continue
        start = 0
        for _, (first, last) in split.pre_tokenize_str(text):
            if last - first > RUN:
                cut += 1
                yield text[start:first]
                yield from (text[place : min(place + RUN, last)] for place in range(first, last, RUN))
                start = last
        yield text[start:]
    if cut:
        say(
            f"tokenizer: {cut:,} runs of more than {RUN} characters without a space or mark were learned from in pieces"
        )


def _some(texts: Iterable[str]) -> Iterator[str]:
    """The texts. Raises UserError where all of them are empty."""
    size = 0
    for text in texts:
        yield text
        size += len(text)
    if size == 0:
        raise UserError("no text to train a tokenizer on: data.sources: name a source that isn't empty")


def write_tokenizer(backend: Tokenizer, folder: Path) -> None:
    """Writes a tokenizer that has `SPECIAL_TOKENS` into a folder, with its settings and the chat template.

    It will add bos and nothing else to what it encodes.
    """
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": int(1e30),  # transformers' way to say that there is no longest text
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    backend.save(str(folder / TOKENIZER_FILE))
    write_settings(folder, settings)
    (folder / TEMPLATE).write_text(CHAT_TEMPLATE, encoding="utf-8")
    write_sums(folder)
