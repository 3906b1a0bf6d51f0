import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { sayOfServer } from "../../../web/js/lib/page/server_texts.js";
import { speak } from "../../../web/js/lib/texts.js";

const TABLE = {
  "step {number} of {number_all}, loss {number_loss}": "第 {number} / {number_all} 步，损失 {number_loss}",
  "{text}, about {text_left} left": "{text}，约剩 {text_left}",
  "{number} min": "{number} 分钟",
  "There is no file {file}": "没有文件 {file}。",
  "Known are {known}": "可用的有 {known}",
  "Choose one": "请选一个。",
  "{name} is open. It marks what is before it.": "{name} 没有闭合，它标记之前的词。",
  "Second: {text}": "第二个：{text}",
  "Kept: {file}": "已保存：{file}",
  "{text}, which loads": "{text}，可以加载",
  "The {role} LoRA has {role_own}_start": "{role} LoRA 有 {role_own}_start",
  "Ignored: {text}": "已忽略：{text}",
  "Prompt: {line}": "提示词：{line}",
  "Done": "完成了",
  "{number} keys": "{number} 个键",
  "{path} cannot be read ({reason})": "{path} 无法读取（{reason}）",
  "Something is wrong. {what}": "出错了。{what}",
  "Train it again": "请重新训练",
  "{name} is {quoted}": "{name} 为 {quoted}",
  "{name}; at {number}": "{name}；在 {number}",
};
const speakChinese = (table = TABLE) =>
  speak("zh", { content: "内容", style: "风格" }, {}, {}, table);
const chinese = (text) => (speakChinese(), sayOfServer(text));

afterEach(() => speak("en", {}));

test("progress is said in the language spoken, and in English without a table", () => {
  const text = "step 20 of 200, loss 0.1234, about 2 min left";
  assert.equal(chinese(text), "第 20 / 200 步，损失 0.1234，约剩 2 分钟");
  speak("fr", {});
  assert.equal(sayOfServer(text), text);
});

test("a change of the language counts at once", () => {
  assert.equal(chinese("Done"), "完成了");
  speakChinese({ Done: "好了" });
  assert.equal(sayOfServer("Done"), "好了");
});

test("each line and each sentence is said by itself, and what no template makes stays", () => {
  assert.equal(
    chinese("There is no file a.b. Known are x, y. Choose one.\nSomething else. Choose one."),
    "没有文件 a.b。可用的有 x, y。请选一个。\nSomething else. 请选一个。",
  );
  assert.equal(chinese("Nothing is known. Of this"), "Nothing is known. Of this");
  assert.equal(chinese(""), "");
});

test("the end of a sentence is as it is in English", () => {
  assert.equal(chinese("Choose one"), "请选一个");
  assert.equal(chinese("Choose one."), "请选一个。");
  assert.equal(chinese("Known are a, b..."), "可用的有 a, b...");
});

test("a text of two sentences is found, also as the value of another", () => {
  const text = "<c> is open. It marks what is before it.";
  assert.equal(chinese(text), "<c> 没有闭合，它标记之前的词。");
  assert.equal(chinese(`Second: ${text} Choose one`), "第二个：<c> 没有闭合，它标记之前的词。请选一个");
});

test("a file takes nothing of what comes after it", () => {
  assert.equal(chinese("Kept: a.b, which loads"), "已保存：a.b，可以加载");
});

test("several texts in one value are said each", () => {
  assert.equal(chinese("Ignored: 5 min; what else; Done."), "已忽略：5 分钟；what else；完成了。");
});

test("a value with a full stop in it stays whole, wherever it stands", () => {
  assert.equal(
    chinese("There is no file a. b.safetensors. Known are x, y. z. Choose one."),
    "没有文件 a. b.safetensors。可用的有 x, y. z。请选一个。",
  );
  assert.equal(
    chinese("D:\\my. loras. new\\a.b cannot be read (Errno 2. Done with it. Or not). Train it again."),
    "D:\\my. loras. new\\a.b 无法读取（Errno 2. Done with it. Or not）。请重新训练。",
  );
  assert.equal(
    chinese("Something is wrong. ValueError: one. two. three Choose one. Done."),
    "出错了。ValueError: one. two. three Choose one。完成了。",
  );
  assert.equal(chinese("Second: There is no file a. b. Choose one."), "第二个：没有文件 a. b。请选一个。");
});

test("a value with a semicolon in it stays whole, and so does a text that is not known", () => {
  assert.equal(chinese("Ignored: a; b: 3 keys; 5 min"), "已忽略：a; b：3 个键；5 分钟");
  assert.equal(chinese("Ignored: what else; and more"), "已忽略：what else; and more");
  assert.equal(chinese("Ignored: what else; and more; 5 min"), "已忽略：what else; and more；5 分钟");
});

test("a text of parts with semicolons is known as a whole, also as the value of another", () => {
  assert.equal(chinese("Second: x, y; at 5"), "第二个：x, y；在 5");
  assert.equal(chinese("Ignored: what else; at noon; 5 min"), "已忽略：what else; at noon；5 分钟");
});

test("a line of a list is said as it is without its beginning", () => {
  assert.equal(chinese("- 5 min\n  Done.\n- what else"), "- 5 分钟\n  完成了。\n- what else");
});

test("a name may stand before a text, and is no reason to cut one that is not known", () => {
  assert.equal(chinese("a. b.safetensors: Choose one. Done."), "a. b.safetensors：请选一个。完成了。");
  assert.equal(chinese("KeyError: 'Choose two'. Done."), "KeyError: 'Choose two'. 完成了。");
});

test("what is quoted is known by its quotes", () => {
  assert.equal(chinese("cfgs is '1. 2'. Done."), "cfgs 为 '1. 2'。完成了。");
  assert.equal(chinese("cfgs is gone. Done."), "cfgs is gone. 完成了。");
});

test("a role is called as the language calls it, and an input keeps its name", () => {
  assert.equal(
    chinese("The content LoRA has style_start"), "内容 LoRA 有 style_start");
  assert.equal(chinese("The other LoRA has style_start"), "The other LoRA has style_start");
});

test("a prompt stays as it was written", () => {
  assert.equal(chinese("Prompt: A dog. Done. Choose one."), "提示词：A dog. Done. Choose one.");
});

test("values are put in as they are, whatever they look like", () => {
  assert.equal(chinese("Kept: {file}$&{text}"), "已保存：{file}$&{text}");
  assert.equal(chinese("constructor"), "constructor");
  assert.equal(chinese("step constructor of 2, loss 1"), "step constructor of 2, loss 1");
});

test("a number is a number, and pieces never overlap", () => {
  for (const text of ["a min", " min", "min", "step 1 of , loss 2", ", which load"])
    assert.equal(chinese(text), text);
  assert.equal(chinese("Kept: "), "已保存：");
});

test("a text of whatever length or form comes to its end soon", () => {
  const many = Object.fromEntries(
    Array.from({ length: 400 }, (_, at) => [`{text}, ${at} {text_more}`, `{text}，${at} {text_more}`]),
  );
  speakChinese(many);
  const ordinary = Array.from({ length: 200 }, (_, at) => `a, ${at} b. `).join("");
  for (const text of [ordinary, "a, 1 ".repeat(700), "x".repeat(1e6), "; ".repeat(1999), ". ".repeat(1999)])
    assert.equal(typeof sayOfServer(text), "string");
  const long = "a, 1 b".padEnd(4001);
  assert.equal(sayOfServer(long), long);
});

test("of a table's row each cell is said, and keeps its place where that is shorter", () => {
  const table = { picture: "图像", content: "内容", "harmonic mean": "调和平均", Done: "完成了" };
  speakChinese(table);
  const rows = ["picture    content  harmonic mean", "a content    0.512          0.470"];
  assert.equal(sayOfServer(rows.join("\n")), `图像          内容       调和平均\n${rows[1]}`);
  assert.equal(sayOfServer("Done  now"), "完成了  now");
});

test("two spaces in a value are no table", () => {
  assert.equal(chinese("Prompt: Done  Choose one"), "提示词：Done  Choose one");
});
