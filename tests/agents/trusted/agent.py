def run(input):
    return {"echo": input}
