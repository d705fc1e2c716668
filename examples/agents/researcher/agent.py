"""Reads its sources side by side, tells the client after each how far it is, and leaves its findings as a file.

Input:    {"topic": text}
Progress: {"done": sources read, "of": sources in all}
Result:   {"topic": text, "summary": text, "findings": [{"source": name, "sentences": count, "quotes": [text]}]}
File:     findings.md
"""

import asyncio
import re
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"


async def run(input, context):
    topic = input.get("topic")
    if not isinstance(topic, str) or not topic.strip():
        raise ValueError("cannot research: 'topic' must be a text that is not empty")

    steps = [asyncio.create_task(asyncio.to_thread(study, path, topic)) for path in sorted(SOURCES.glob("*.txt"))]
    for done, step in enumerate(asyncio.as_completed(steps), start=1):
        await step
        context.progress({"done": done, "of": len(steps)})
    result = report(topic, [step.result() for step in steps])
    Path(context.workdir, "findings.md").write_text(as_markdown(result), encoding="utf-8")
    return result


def study(path, topic):
    sentences = re.split(r"(?<=[.!?])\s+", path.read_text(encoding="utf-8").strip())
    quotes = [sentence for sentence in sentences if topic.lower() in sentence.lower()]
    return {"source": path.stem, "sentences": len(sentences), "quotes": quotes}


def report(topic, findings):
    total = sum(finding["sentences"] for finding in findings)
    quoted = sum(len(finding["quotes"]) for finding in findings)
    return {
        "topic": topic,
        "summary": f"{quoted} of {total} sentences in {len(findings)} sources mention {topic}.",
        "findings": findings,
    }


def as_markdown(result):
    quotes = [f"> {quote} ({finding['source']})\n" for finding in result["findings"] for quote in finding["quotes"]]
    return "\n".join([f"# {result['topic']}\n", f"{result['summary']}\n", *quotes])
