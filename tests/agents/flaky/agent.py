"""Fails in every attempt before {"good": number}; each prints its number and leaves it in a file."""

from pathlib import Path


def run(input, context):
    print(f"this is attempt {context.attempt}")
    Path(context.workdir, "attempt.txt").write_text(str(context.attempt))
    context.progress({"attempt": context.attempt})
    if context.attempt < input["good"]:
        raise RuntimeError(f"attempt {context.attempt} is not good")
    return {"attempt": context.attempt}
