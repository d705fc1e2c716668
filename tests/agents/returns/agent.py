"""Returns one of many values, most of which are no result."""


class Hostile(dict):
    """Encoding it runs its code, which fails in a way of its own."""

    def items(self):
        raise KeyError("mine")


class Hysterical(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class Speechless(dict):
    def items(self):
        raise Hysterical


def circular():
    value = {}
    value["self"] = value
    return value


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


VALUES = {
    "nothing": lambda: None,
    "list": lambda: [1],
    "text": lambda: "done",
    "set": lambda: {"a": {1}},
    "object": lambda: {"a": object()},
    "bytes": lambda: {"a": b"x"},
    "circular": circular,
    "endless": lambda: nested(100_000),
    "too deep": lambda: nested(100),
    "tuple as a key": lambda: {(1, 2): 3},
    "NaN": lambda: {"a": float("nan")},
    "Infinity": lambda: {"a": float("inf")},
    "half a surrogate pair": lambda: {"a": "\ud800"},
    "half a surrogate pair as a key": lambda: {"\ud800": 1},
    "hostile": lambda: Hostile(a=1),
    "speechless": lambda: Speechless(a=1),
    "a generator": lambda: {"a": (letter for letter in "abc")},
    "deep": lambda: nested(98),
    "odd but fine": lambda: {1: (True, None), "\x00": "\N{GRINNING FACE}é\x7f\u2028"},
    "large": lambda: {"a": "\N{GRINNING FACE}" * 200_000},
    "too large": lambda: {"a": "\N{GRINNING FACE}" * 300_000},
}


def run(input):
    return VALUES[input["what"]]()
