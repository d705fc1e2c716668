"""Answers a question about today's weather, from a table, so that it needs no network.

Input:  {"question": text, "context": {"city": text}}; the context is optional, and the question may name the city.
Result: {"answer": text, "confidence": 0 to 1}
"""

WEATHER = {
    "Cairo": "sunny with 34C",
    "Lisbon": "sunny with 25C",
    "London": "rainy with 14C",
    "Oslo": "snowy with -3C",
    "Tokyo": "cloudy with 19C",
}
DEFAULT_CITY = "Lisbon"


def run(input):
    question = text(input, "question")
    context = input.get("context") or {}
    if not isinstance(context, dict):
        raise ValueError("cannot answer: 'context' must be an object")
    city = text(context, "city") if "city" in context else city_in(question)
    if city is None:
        return {"answer": f"Today is {WEATHER[DEFAULT_CITY]}", "confidence": 0.95}
    if city.title() not in WEATHER:
        return {"answer": f"I do not know the weather in {city}", "confidence": 0.0}
    return {"answer": f"Today in {city.title()} is {WEATHER[city.title()]}", "confidence": 0.95}


def text(fields, name):
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"cannot answer: {name!r} must be a text that is not empty")
    return value.strip()


def city_in(question):
    return next((city for city in WEATHER if city.lower() in question.lower()), None)
