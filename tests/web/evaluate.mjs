// Reads {"curves": [...], "prompts": [...], "guided": [...], "sweeps": [...], "off": [...]} and writes what web/js/lib makes
// of each, for the tests that hold it to the Python.

import { parse } from "../../web/js/lib/drawings/markers.js";
import {
  actingLoras, chosenLoras, dialNotices, guidanceNotices, sweepNotices,
} from "../../web/js/lib/drawings/notices.js";
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
const pair = chosenLoras({ content: "dog", style: "ink" }, []);
const widgetsOf = (values) => Object.entries(values).map(([name, value]) => ({ name, value }));
const ofSweep = (values, strength, acting) => {
  const sweep = { id: 1, type: "CRAFTMethodSweep", widgets: widgetsOf(values), inputs: [] };
  const inputs = ["asymmetric", "cfg"].map((name) => ({ name, link: 1 }));
  const sampler = { id: 2, type: "CRAFTACFGKSampler", widgets: [], inputs };
  linked([sweep, sampler]);
  const [at, behind] = [sweep, sampler].map((node) => ({ node, hosts: [] }));
  const dials = { content: strength, style: strength };
  return sweepNotices(at, [behind], acting, dials);
};
const sweeps = asked.sweeps.map(({ values, strength }) =>
  ofSweep(values, strength, () => pair).map(({ text }) => text).join(""),
);
const off = asked.off.map(({ method, marked, prompt, strength, cfg }) => {
  const acting = (methods) =>
    actingLoras(pair, parse(prompt).phrases, methods.every((one) => one === method && marked));
  const values = { cfg, asymmetric: true, guidance: "acfg/cfg" };
  const sampler = { type: "CRAFTACFGKSampler", widgets: widgetsOf(values) };
  const dials = { content: strength, style: strength };
  const of = [
    guidanceNotices([{ node: sampler, hosts: [] }], acting([method]), dials),
    ofSweep({ methods: method, cfgs: String(cfg), asymmetric: true }, strength, acting),
    dialNotices(pair, dials, acting([method])),
  ];
  return of.map((notices) => notices.map(({ text }) => text));
});
process.stdout.write(JSON.stringify({ curves, prompts, guided, sweeps, off }));
