// llama.cpp (through node-llama-cpp) with an exported base and adapter. Knows files and tokens only.
//
//   node llama.mjs tokens JOB.json    greedy tokens; JOB is {base, adapter, prompts: [{ids, text}], tokens}
//   node llama.mjs serve BASE ADAPTER an OpenAI-compatible server; prints its port, ends with its input
import {readFileSync} from "node:fs";
import {createServer} from "node:http";
import {createRequire} from "node:module";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const installed = createRequire(join(process.env.ENGINES, "package.json"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(installed.resolve("node-llama-cpp")));

async function open(base, adapter) {
    const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
    const model = await llama.loadModel({modelPath: base});
    const lora = adapter ? {adapters: [{filePath: adapter, scale: 1}]} : undefined;
    const context = await model.createContext({contextSize: 512, threads: 1, lora});
    return {model, sequence: context.getSequence()};
}

async function greedy({model, sequence}, ids, limit) {
    await sequence.clearHistory();
    const found = [];
    for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
        if (model.isEogToken(token) || found.push(token) >= limit) break;
    }
    return found;
}

async function answers(job) {
    const opened = await open(job.base, job.adapter);
    const results = [];
    for (const {ids, text} of job.prompts) {
        results.push({ids: await greedy(opened, ids, job.tokens), prompt: opened.model.tokenize(text, true)});
    }
    return results;
}

async function serve(base, adapter) {
    const {Template} = await import(pathToFileURL(installed.resolve("@huggingface/jinja")));
    const opened = await open(base, adapter);
    const {model} = opened;
    const template = new Template(model.fileInfo.metadata.tokenizer.chat_template);
    let last = Promise.resolve();
    const server = createServer(async (request, response) => {
        let text = "";
        for await (const part of request) text += part;
        let body = {object: "list", data: [{id: "llama.cpp", object: "model"}]};
        if (request.method === "POST") {
            const {messages, max_tokens} = JSON.parse(text);
            const prompt = template.render({messages, add_generation_prompt: true});
            last = last.then(() => greedy(opened, model.tokenize(prompt, true), max_tokens));
            const content = model.detokenize(await last);
            body = {choices: [{index: 0, message: {role: "assistant", content}}]};
        }
        response.setHeader("Content-Type", "application/json");
        response.end(JSON.stringify(body));
    });
    server.listen(0, "127.0.0.1", () => console.log(server.address().port));
    process.stdin.on("end", () => process.exit(0)).resume();
}

const [mode, ...given] = process.argv.slice(2);
if (mode === "serve") {
    await serve(...given);
} else {
    const results = await answers(JSON.parse(readFileSync(given[0], "utf8")));
    process.stdout.write(JSON.stringify(results) + "\n", () => process.exit(0));
}
