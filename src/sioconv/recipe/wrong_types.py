"""jsonargparse's messages about a value's type, in words that its user knows: the key, the value, what it should be."""

import re

# Each level of dataclasses that may be left out puts its own sentence before that of the key that is wrong.
_KEY = re.compile(r"""(?:Problem with given class_path '[^']*': )?Parser key "([^"]+)": """)
_EXPECTED = re.compile(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\]\.)|Not a valid (subclass) of")
_VALUE = re.compile(r"(?:Got value|Given value): (.*?)(?= - Expected a <class|$)")
_NO_MAPPING = re.compile(r"Unable to load config '(.*?)'")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping of keys",
    "subclass": "a mapping of keys",
    "NoneType": "null",
}
LONGEST = 80  # characters of a value that are shown


def in_words(error: Exception) -> str:
    """`KEY: 'VALUE' is not WHAT IT SHOULD BE`; what isn't such a message stays as it is, on one line."""
    text = rest = " ".join(str(error).split())
    keys: list[str] = []
    while found := _KEY.search(rest):
        keys.append(found[1])
        rest = rest[found.end() :]
    if keys and (found := _NO_MAPPING.match(rest)):
        return f"{keys[0]}: {found[1][:LONGEST]!r} is not {_WORDS['dict']}"
    value, kinds = _VALUE.search(rest), list[str]()
    for name, choices, mapping in _EXPECTED.findall(rest[: value.start()] if value else ""):
        word = f"one of {choices.replace(chr(39), '')}" if choices else _WORDS.get(name or mapping, name)
        kinds += [word] * (word not in kinds)
    if not (keys and value and kinds):
        return text
    expected = " or ".join(kinds)
    return f"{'.'.join(keys)}: {value[1][:LONGEST]!r} is not {expected}"
