// Reads {"curves": [...], "prompts": [...], "guided": [...], "sweeps": [...]} and writes what web/js/lib makes of each, for
// the tests that hold it to the Python.

import { parse } from "../../web/js/lib/drawings/markers.js";
import { chosenLoras, sweepNotices } from "../../web/js/lib/drawings/notices.js";
import { sampleCurve } from "../../web/js/lib/drawings/schedule.js";
import { excesses, reaches } from "../../web/js/lib/guidance.js";
import { linked } from "./linked.mjs";

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
const sweeps = asked.sweeps.map(({ values, strength }) => {
  const widgets = Object.entries(values).map(([name, value]) => ({ name, value }));
  const sweep = { id: 1, type: "CRAFTMethodSweep", widgets, inputs: [] };
  const inputs = ["asymmetric", "cfg"].map((name) => ({ name, link: 1 }));
  const sampler = { id: 2, type: "CRAFTACFGKSampler", widgets: [], inputs };
  linked([sweep, sampler]);
  const [at, behind] = [sweep, sampler].map((node) => ({ node, hosts: [] }));
  const dials = { content: strength, style: strength };
  const pair = chosenLoras({ content: "dog", style: "ink" }, []);
  return sweepNotices(at, [behind], pair, dials).map(({ text }) => text).join("");
});
process.stdout.write(JSON.stringify({ curves, prompts, guided, sweeps }));
