// Reads {"curves": [...], "prompts": [...], "guided": [...]} and writes what web/js/lib makes of each, for the test
// that holds it to the Python.

import { parse } from "../../web/js/lib/drawings/markers.js";
import { sampleCurve } from "../../web/js/lib/drawings/schedule.js";
import { excesses, reaches } from "../../web/js/lib/guidance.js";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const asked = JSON.parse(Buffer.concat(chunks).toString("utf-8"));

const resultOf = (work) => {
  try {
    return work();
  } catch (error) {
    if (error.name !== "CraftError") throw error;
    return { error: error.message };
  }
};

const curves = asked.curves.map(({ shape, settings, floors, count }) =>
  resultOf(() => sampleCurve(shape, settings, ...floors, count)),
);
const prompts = asked.prompts.map((prompt) =>
  resultOf(() => {
    const { clean, phrases, marks, unclosed } = parse(prompt);
    const of = (role) => phrases.filter((phrase) => phrase.role === role).map(({ text }) => text);
    const markers = marks.map(({ text, role }) => [text, role]);
    return { clean, content: of("content"), style: of("style"), markers, unclosed };
  }),
);
const guided = asked.guided.map(({ values, strengths }) =>
  excesses(strengths, reaches((name) => values[name])).map(({ text }) => text),
);
process.stdout.write(JSON.stringify({ curves, prompts, guided }));
