/** Templates of the supported families against transformers' apply_chat_template. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { readModelChat } from '../../../src/chat/model-templates.ts';
import { TRUSTED } from '../../../src/chat/rendering.ts';
import { compileTemplate } from '../../../src/chat/template.ts';
import type { ChatMessage } from '../../../src/chat/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import type { JsonObject } from '../../../src/importer/json.ts';
import { loadTokenizer } from '../../../src/tokenizer/tokenizer.ts';

const FIXTURES = fileURLToPath(new URL('../../fixtures', import.meta.url));
const read = (file: string) => readFileSync(path.join(FIXTURES, 'chat', file), 'utf8');

interface Conversation {
  name: string;
  messages: ChatMessage[];
  tools?: JsonObject[];
  add_generation_prompt: boolean;
  continue_final_message: boolean;
  kwargs: JsonObject;
}
/** `raises` is the template's own message, or null where something else went wrong. */
type Expected = { text: string; ids: string } | { raises: string | null };

const conversations = JSON.parse(read('conversations.json')) as Conversation[];
const golden = JSON.parse(read('expected.json')) as Record<
  string,
  { model: string; conversations: Record<string, Expected> }
>;
const now = new Date(2024, 6, 4, 9, 5, 7);

describe.each(Object.entries(golden))('%s', async (name, { model, conversations: rows }) => {
  const folder = path.join(FIXTURES, 'models', model);
  const { specialTokens } = await readModelChat(folder);
  const tokenizer = await loadTokenizer(folder);
  const template = compileTemplate(read(`templates/${name}.jinja`));
  const context = { specialTokens, now, limits: TRUSTED };

  it.each(conversations)('$name', async (conversation) => {
    const render = () =>
      template.render(
        {
          messages: conversation.messages,
          tools: conversation.tools,
          addGenerationPrompt: conversation.add_generation_prompt,
          continueFinalMessage: conversation.continue_final_message,
          kwargs: conversation.kwargs,
        },
        context,
      );
    const expected = rows[conversation.name]!;
    if ('raises' in expected) {
      expect(render).toThrow(LoramuxError);
      if (expected.raises !== null) expect(render).toThrow(expected.raises);
      return;
    }
    const text = render();
    expect(text).toBe(expected.text);
    const ids = await tokenizer.encode(text, { addSpecialTokens: false });
    expect(createHash('sha256').update(ids.join(',')).digest('hex')).toBe(expected.ids);
  });
});
