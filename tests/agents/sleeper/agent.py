"""Says that it runs, then sleeps for {"seconds": number}, by default for ever."""

import time


def run(input, context):
    context.progress({"asleep": True})
    time.sleep(input.get("seconds", 3600))
    return {"slept": True}
