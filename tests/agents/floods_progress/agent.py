"""Tells its progress far too often."""


def run(input, context):
    for number in range(input["times"]):
        context.progress({"number": number})
    return {}
