def run(input):
    return {"answer": "Today is sunny with 25C", "confidence": 0.95}
