/**
 * Schemathesis against the demo server: requests made from openapi.yaml, by its examples, by the bounds
 * of each field, at random and along the ways from one answer to the next request; valid ones and
 * invalid ones, with all checks (python/schemathesis.toml). Every answer is compared with openapi.yaml
 * a second time, as all answers of the end-to-end tests are.
 */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it } from 'vitest';
import { DEMO_ADAPTERS_DIR } from '../../examples/modular-arithmetic/tasks.ts';
import { ROOT } from '../../scripts/process.ts';
import type { ErrorCode } from '../../src/errors.ts';
import { answerViolations } from '../support/contract.ts';
import { idle, useDemoServer } from '../support/demo-server.ts';
import { runPython } from '../support/python-clients.ts';
import { type Answered, answeredIn } from '../support/schemathesis.ts';

const PYTHON = path.join(ROOT, 'test/clients/python');
/** All of openapi.yaml but the WebSocket. */
const OPERATIONS = 26;

/**
 * Codes of 400 for requests that their schema allows. A refusal by the schema, or any code and any
 * operation that is not here, would mean that openapi.yaml promises more than the server keeps.
 */
const GENERATION: readonly ErrorCode[] = [
  // Fields that exclude or need each other, tools that are named and not there.
  ...(['invalid_request', 'unsupported_field'] as const),
  ...(['token_out_of_range', 'prompt_empty', 'context_length_exceeded'] as const),
  ...(['grammar_invalid', 'grammar_unsupported'] as const),
];
const REFUSALS: Readonly<Record<string, readonly ErrorCode[]>> = {
  'POST /v1/completions': GENERATION,
  'POST /v1/chat/completions': GENERATION,
  'POST /v1/responses': GENERATION,
  'POST /tokenize': ['invalid_request', 'unsupported_field'],
  'POST /detokenize': ['token_out_of_range'],
  'PUT /v1/adapters/{name}': [
    // A new name has nothing to give a share of.
    'invalid_request',
    ...(['adapter_name_invalid', 'adapter_upload_incomplete'] as const),
  ],
  'POST /v1/load_lora_adapter': [
    ...(['adapter_name_invalid', 'adapter_already_loaded', 'unsupported_field'] as const),
  ],
};
/** As SGLang says them: in a shape of its own, without a code. */
const CODELESS = ['POST /load_lora_adapter', 'POST /unload_lora_adapter'];
/** What the validator of schemas says. */
const BY_SCHEMA =
  /\b(is required|must NOT|must match|must be (string|number|integer|boolean|object))/;

let folder: string;

const demo = useDemoServer(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-schemathesis-'));
  // The folders that the examples name, of different content.
  for (const [name, adapter] of [
    ['team-a/subtract', 'linear'],
    ['team/subtract', 'cubic'],
  ] as const) {
    const place = path.join(folder, 'adapters', name);
    await cp(path.join(DEMO_ADAPTERS_DIR, adapter), place, { recursive: true });
  }
  return [
    // Repositories and URLs in requests would leave the machine.
    ...['--remote-sources', 'false', '--adapter-root', path.join(folder, 'adapters')],
    // Answers without a limit end here.
    ...['--max-model-len', '512'],
  ];
});

/** What of an answer to a request that its schema allows is not as it should be. */
function refusalOf({ operation, status, text }: Answered): string[] {
  if (status !== 400 || CODELESS.includes(operation)) return [];
  const { error } = JSON.parse(text) as { error: { code: ErrorCode; message: string } };
  const isKnown = REFUSALS[operation]?.includes(error.code) && !BY_SCHEMA.test(error.message);
  return isKnown ? [] : ['refused, though its schema allows it'];
}

it('finds no answer that openapi.yaml does not allow', async () => {
  const report = path.join(folder, 'report.ndjson');
  const { stdout } = await runPython(
    [
      ...['-m', 'schemathesis.cli', '--config-file', path.join(PYTHON, 'schemathesis.toml')],
      ...['run', path.join(ROOT, 'openapi.yaml'), '--url', demo.server.url, '--no-color'],
      ...['--report', 'ndjson', '--report-ndjson-path', report],
    ],
    { SCHEMATHESIS_HOOKS: path.join(PYTHON, 'schemathesis_hooks.py') },
    // Where it leaves its notes.
    folder,
  );
  expect(stdout).toMatch(new RegExp(`Selected: ${OPERATIONS}/${OPERATIONS + 1}\\b`));
  expect(stdout).toMatch(new RegExp(`Tested: ${OPERATIONS}\\b`));
  expect(stdout).toMatch(/\b(\d+) generated, \1 passed\b/);

  const answers = await answeredIn(report);
  expect(answers.length).toBeGreaterThan(3000);
  const wrong = answers.flatMap((answer) => {
    const found = answerViolations(answer);
    if (answer.status >= 500) found.push('a defect of the server');
    if (answer.isValid) found.push(...refusalOf(answer));
    return found.map((what) => `${answer.method} ${answer.path}: ${what}: ${answer.text}`);
  });
  expect(wrong).toEqual([]);
  const accepted = answers.filter(({ isValid, status }) => isValid && status < 300);
  const reached = new Set(accepted.map(({ operation }) => operation));
  const asked = new Set(answers.filter(({ isValid }) => isValid).map(({ operation }) => operation));
  expect([...asked].filter((operation) => !reached.has(operation))).toEqual([]);
  await idle(demo.server);
  // Else it stays, for whoever looks into what was found.
  await rm(folder, { recursive: true, force: true });
});
