// Asks llama.cpp (through node-llama-cpp) for greedy tokens; reads one JSON job, prints one JSON.
// node llama.mjs JOB.json  with  {base, adapter, prompts: [{ids, text}], tokens}
import {readFileSync} from "node:fs";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = createRequire(process.cwd() + "/").resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(found));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
const model = await llama.loadModel({modelPath: job.base});
const context = await model.createContext({
    contextSize: 512,
    threads: 1,
    lora: job.adapter ? {adapters: [{filePath: job.adapter, scale: 1}]} : undefined
});
const sequence = context.getSequence();
const answers = [];
for (const prompt of job.prompts) {
    await sequence.clearHistory();
    const ids = [];
    for await (const token of sequence.evaluate(prompt.ids, {temperature: 0, yieldEogToken: true})) {
        ids.push(token);
        if (model.isEogToken(token) || ids.length >= job.tokens) break;
    }
    answers.push({ids, tokenised: model.tokenize(prompt.text, true)});
}
process.stdout.write(JSON.stringify({answers}) + "\n");
process.exit(0);
