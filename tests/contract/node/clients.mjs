// Drives the JavaScript clients, unmodified, with another base URL, and prints what they saw as JSON.
// node clients.mjs CLIENT ABILITY...; the service is described by HOST, ACCOUNT, TOKEN and MODEL,
// the requests by ASK: turns to `say`, to `see`, to `call` for the `tool`, to get `json` of the
// `schema`, and `settings` of all of them.

const { HOST, ACCOUNT, TOKEN, MODEL } = process.env;
const { say, see, call, json, tool, schema, settings } = JSON.parse(process.env.ASK);
const api = `${HOST}/client/v4`;

async function errorOf(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    const status = error.status ?? error.statusCode ?? Number(error.message.match(/\b[45]\d\d\b/)?.[0]);
    return { name: error.constructor.name, status, message: error.message };
  }
}

async function collected(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

const called = (made) => made.map((each) => ({ name: each.name, arguments: each.arguments }));
const framed = (text) =>
  text
    .split("\n\n")
    .filter((event) => event && event !== "data: [DONE]")
    .map((event) => JSON.parse(event.slice("data: ".length)));

async function openai() {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: `${api}/accounts/${ACCOUNT}/ai/v1`, apiKey: TOKEN, maxRetries: 0 });
  const ask = (messages, fields) => client.chat.completions.create({ model: MODEL, messages, ...settings, ...fields });
  const helper = (messages, fields) => client.chat.completions.stream({ model: MODEL, messages, ...settings, ...fields });
  const format = { type: "json_schema", json_schema: { name: "wanted", schema, strict: true } };
  const parsed = (calls) => calls.map((made) => ({ name: made.function.name, arguments: JSON.parse(made.function.arguments) }));
  return {
    text: async () => (await ask(say)).choices[0].message.content,
    stream: async () => (await collected(await ask(say, { stream: true }))).map((c) => c.choices[0]?.delta.content),
    helper: async () => await helper(say).finalContent(),
    response: async () => (await client.responses.create({ model: MODEL, input: "Say hello.", ...settings })).output_text,
    picture: async () => {
      const { choices, usage } = await ask(see);
      return { text: choices[0].message.content, tokens: usage.prompt_tokens };
    },
    json: async () => JSON.parse((await ask(json, { response_format: format })).choices[0].message.content),
    parsed: async () =>
      (await client.chat.completions.parse({ model: MODEL, messages: json, response_format: format })).choices[0].message
        .parsed,
    calls: async () => parsed((await ask(call, { tools: [tool] })).choices[0].message.tool_calls),
    streamed_calls: async () => parsed((await helper(call, { tools: [tool] }).finalMessage()).tool_calls),
    models: async () => (await collected(client.models.list())).map((model) => model.id),
    hot: async () => await ask(say, { temperature: 9 }),
  };
}

async function cloudflare() {
  const { default: Cloudflare } = await import("cloudflare");
  const client = new Cloudflare({ baseURL: api, apiToken: TOKEN, maxRetries: 0 });
  const run = (fields) => client.ai.run(MODEL, { account_id: ACCOUNT, ...settings, ...fields });
  const streamed = async (fields) => framed(await (await run({ ...fields, stream: true }).asResponse()).text());
  return {
    text: async () => (await run({ messages: say })).response,
    stream: async () => (await streamed({ messages: say })).map((frame) => frame.response),
    picture: async () => {
      const { response, usage } = await run({ messages: see });
      return { text: response, tokens: usage.prompt_tokens };
    },
    json: async () =>
      (await run({ messages: json, response_format: { type: "json_schema", json_schema: schema } })).response,
    calls: async () => called((await run({ messages: call, tools: [tool] })).tool_calls),
    streamed_calls: async () =>
      called((await streamed({ messages: call, tools: [tool] })).flatMap((frame) => frame.tool_calls ?? [])),
    models: async () =>
      (await collected(client.ai.models.list({ account_id: ACCOUNT, per_page: 1 }))).map((model) => model.name),
    token: async () => (await client.user.tokens.verify()).status,
    finetunes: async () => {
      const account = { account_id: ACCOUNT };
      const made = await client.ai.finetunes.create({ ...account, model: MODEL, name: "labels", description: "d" });
      const unfinished = await errorOf(run({ messages: say, lora: "labels" }));
      for (const [name, data] of Object.entries(JSON.parse(process.env.FILES))) {
        const file = await Cloudflare.toFile(Buffer.from(data, "base64"), name);
        await client.ai.finetunes.assets.create(made.id, { ...account, file_name: name, file });
      }
      return {
        made,
        listed: await client.ai.finetunes.list(account),
        public: await collected(client.ai.finetunes.public.list(account)),
        unfinished,
        text: (await run({ messages: say, lora: "labels" })).response,
        unknown: await errorOf(run({ messages: say, lora: "nobody" })),
      };
    },
  };
}

async function vercel() {
  const { createWorkersAI } = await import("workers-ai-provider");
  const { generateText, streamText, generateObject, jsonSchema, tool: declare } = await import("ai");
  // It has no base URL: its fetch is the way to another host.
  const elsewhere = (url, init) => fetch(String(url).replace(/^https:\/\/(api|gateway\.ai)\.cloudflare\.com/, HOST), init);
  const provider = createWorkersAI({ accountId: ACCOUNT, apiKey: TOKEN, fetch: elsewhere });
  const common = { model: provider(MODEL), maxRetries: 0, ...settings };
  const tools = {
    get_weather: declare({ description: tool.function.description, inputSchema: jsonSchema(tool.function.parameters) }),
  };
  const calls = (made) => made.map((each) => ({ name: each.toolName, arguments: each.input }));
  // Its own words for a picture.
  const seen = see.map(({ role, content }) => ({
    role,
    content: content.map((part) => (part.image_url ? { type: "image", image: part.image_url.url } : part)),
  }));
  return {
    text: async () => (await generateText({ ...common, messages: say })).text,
    stream: async () => {
      let failure;
      const { textStream } = streamText({ ...common, messages: say, onError: ({ error }) => (failure = error) });
      const pieces = await collected(textStream);
      if (failure) throw failure;
      return pieces;
    },
    ending: async () => {
      const { finishReason, usage } = streamText({ ...common, messages: say });
      return { reason: await finishReason, tokens: (await usage).outputTokens };
    },
    picture: async () => {
      const { text, usage } = await generateText({ ...common, messages: seen });
      return { text, tokens: usage.inputTokens };
    },
    json: async () => (await generateObject({ ...common, messages: json, schema: jsonSchema(schema) })).object,
    calls: async () => calls((await generateText({ ...common, messages: call, tools })).toolCalls),
    streamed_calls: async () => calls(await streamText({ ...common, messages: call, tools, onError: () => {} }).toolCalls),
  };
}

async function langchain() {
  const { ChatCloudflareWorkersAI } = await import("@langchain/cloudflare");
  const chat = new ChatCloudflareWorkersAI({
    model: MODEL,
    cloudflareAccountId: ACCOUNT,
    cloudflareApiToken: TOKEN,
    baseUrl: `${api}/accounts/${ACCOUNT}/ai/run`,
    maxRetries: 0,
  });
  return {
    text: async () => (await chat.invoke(say)).content,
    turns: async () => (await chat.invoke([["system", "Be brief."], ["human", "Say hello."]])).content,
    stream: async () => (await collected(await chat.stream(say))).map((chunk) => chunk.content),
  };
}

const [client, ...abilities] = process.argv.slice(2);
const known = await { openai, cloudflare, vercel, langchain }[client]();
const saw = {};
for (const ability of abilities) {
  const failed = await errorOf(known[ability]().then((seen) => (saw[ability] = seen)));
  if (failed) saw[ability] = { failed };
}
console.log(JSON.stringify(saw));
