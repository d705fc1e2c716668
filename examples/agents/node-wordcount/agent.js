// Counts words. Shows all that a program in any language has to do: read JSON from stdin, write frames, log to stdout.
//
// Input:    {"text": text}
// Progress: {"read_bytes": size of the input}
// Result:   {"words": count, "distinct": count of different words, upper and lower case being the same}

'use strict';

const fs = require('node:fs');

const resultFd = Number(process.env.CORRAL_RESULT_FD);

function writeFrame(frame) {
  fs.writeFileSync(resultFd, JSON.stringify(frame) + '\n');
}

async function readInput() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  writeFrame({ progress: { read_bytes: bytes.length } });
  return JSON.parse(bytes.toString('utf8'));
}

function count(text) {
  if (typeof text !== 'string') throw new TypeError("cannot count: 'text' must be a text");
  const words = text.toLowerCase().match(/[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu) ?? [];
  return { words: words.length, distinct: new Set(words).size };
}

async function main() {
  const { text } = await readInput();
  const result = count(text);
  console.log(`counted ${result.words} words`);
  writeFrame({ result });
}

main().catch((error) => {
  writeFrame({ error: { message: String(error), traceback: error.stack } });
  process.exitCode = 1;
});
