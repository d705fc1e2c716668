def run(input, context):
    if context.attempt == 1:
        raise RuntimeError("not today")
    return {"attempt": context.attempt}
