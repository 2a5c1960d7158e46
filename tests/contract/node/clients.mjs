// Drives the JavaScript clients, unmodified, with another base URL, and prints what they saw as JSON.
// node clients.mjs CLIENT SCENARIO; the service is described by HOST, ACCOUNT, TOKEN and MODEL,
// the requests by ASK.

const { HOST, ACCOUNT, TOKEN, MODEL } = process.env;
const { say, see, tool, schema } = JSON.parse(process.env.ASK);
const api = `${HOST}/client/v4`;

async function errorOf(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? error.statusCode, message: error.message };
  }
}

async function collected(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}

async function openai() {
  const { default: OpenAI } = await import("openai");
  const client = new OpenAI({ baseURL: `${api}/accounts/${ACCOUNT}/ai/v1`, apiKey: TOKEN, maxRetries: 0 });
  const format = { type: "json_schema", json_schema: { name: "echo", schema, strict: true } };
  const ask = (fields) => client.chat.completions.create({ model: MODEL, messages: say, ...fields });
  return {
    plain: async () => ({
      text: (await ask({})).choices[0].message.content,
      streamed: (await collected(await ask({ stream: true }))).map((c) => c.choices[0]?.delta.content).join(""),
      helper: await client.chat.completions.stream({ model: MODEL, messages: say }).finalContent(),
      response: (await client.responses.create({ model: MODEL, input: "Say hello." })).output_text,
      picture: (await ask({ messages: see })).usage.prompt_tokens,
      json: JSON.parse((await ask({ response_format: { type: "json_object" } })).choices[0].message.content),
      parsed: (await client.chat.completions.parse({ model: MODEL, messages: say, response_format: format })).choices[0]
        .message.parsed,
      models: (await collected(client.models.list())).map((model) => model.id),
      error: await errorOf(ask({ temperature: 9 })),
      denied: (await errorOf(client.withOptions({ apiKey: "wrong" }).models.list())).name,
    }),
    tools: async () => {
      const helper = client.chat.completions.stream({ model: MODEL, messages: say, tools: [tool] });
      return {
        whole: (await ask({ tools: [tool] })).choices[0].message.tool_calls.map((call) => call.function),
        streamed: (await helper.finalMessage()).tool_calls.map((call) => call.function),
      };
    },
  };
}

async function cloudflare() {
  const { default: Cloudflare } = await import("cloudflare");
  const client = new Cloudflare({ baseURL: api, apiToken: TOKEN, maxRetries: 0 });
  const run = (fields, model = MODEL) => client.ai.run(model, { account_id: ACCOUNT, ...fields });
  return {
    plain: async () => ({
      text: (await run({ messages: say })).response,
      streamed: await (await run({ prompt: "Say hello.", stream: true }).asResponse()).text(),
      picture: (await run({ messages: see })).usage.prompt_tokens,
      json: (await run({ messages: say, response_format: { type: "json_schema", json_schema: schema } })).response,
      models: (await collected(client.ai.models.list({ account_id: ACCOUNT }))).map((model) => model.name),
      status: (await client.user.tokens.verify()).status,
      error: await errorOf(run({ prompt: "x" }, "@cf/nobody/none")),
    }),
    tools: async () => ({
      whole: (await run({ messages: say, tools: [tool] })).tool_calls,
      streamed: await (await run({ messages: say, tools: [tool], stream: true }).asResponse()).text(),
    }),
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
  const model = provider(MODEL);
  const common = { model, prompt: "Say hello.", maxRetries: 0 };
  const tools = {
    get_weather: declare({ description: "Weather in a city", inputSchema: jsonSchema(tool.function.parameters) }),
  };
  const calls = (made) => made.map((call) => ({ name: call.toolName, arguments: call.input }));
  const picture = { type: "image", image: see[0].content[1].image_url.url };
  return {
    plain: async () => {
      const stream = streamText(common);
      const seen = [{ role: "user", content: [{ type: "text", text: "What colour?" }, picture] }];
      return {
        text: (await generateText(common)).text,
        streamed: (await collected(stream.textStream)).join(""),
        finish: await stream.finishReason,
        usage: (await stream.usage).outputTokens,
        picture: (await generateText({ model, messages: seen })).usage.inputTokens,
        object: (await generateObject({ ...common, schema: jsonSchema(schema) })).object,
        error: await errorOf(generateText({ ...common, model: provider("@cf/nobody/none") })),
      };
    },
    tools: async () => ({
      whole: calls((await generateText({ ...common, tools })).toolCalls),
      streamed: calls(await streamText({ ...common, tools }).toolCalls),
    }),
  };
}

async function langchain() {
  const { ChatCloudflareWorkersAI } = await import("@langchain/cloudflare");
  const make = (model) =>
    new ChatCloudflareWorkersAI({
      model,
      cloudflareAccountId: ACCOUNT,
      cloudflareApiToken: TOKEN,
      baseUrl: `${api}/accounts/${ACCOUNT}/ai/run`,
      maxRetries: 0,
    });
  const chat = make(MODEL);
  return {
    plain: async () => ({
      text: (await chat.invoke("Say hello.")).content,
      turns: (await chat.invoke([["system", "Be brief."], ["human", "Say hello."]])).content,
      streamed: (await collected(await chat.stream("Say hello."))).map((chunk) => chunk.content).join(""),
      error: await errorOf(make("@cf/nobody/none").invoke("x")),
    }),
  };
}

const [client, scenario] = process.argv.slice(2);
const scenarios = await { openai, cloudflare, vercel, langchain }[client]();
console.log(JSON.stringify(await scenarios[scenario]()));
