/** Which template a chat is rendered with. */
import { readFile } from 'node:fs/promises';
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterGeneration, AdapterRecord } from '../adapters/types.ts';
import { LoramuxError, toLoramuxError } from '../errors.ts';
import { DEFAULT_TEMPLATE, type NamedTemplates, TOOL_TEMPLATE } from '../jinja/named-templates.ts';
import type { RenderLimits } from '../jinja/run.ts';
import type { ModelChat } from './model-templates.ts';
import { compileTemplate, UNTRUSTED } from './template.ts';
import type { ChatTemplate } from './types.ts';

/** Adapter generations whose templates, or that they have none, are remembered. */
const OWN_TEMPLATES_MAX = 1024;

export interface ChatService {
  /**
   * The template of a request for the adapter, or for the base without one.
   * @param override the request's own template
   * @throws LoramuxError chat_template_missing, chat_template_invalid, unsupported_field (an
   *   override that the configuration does not allow)
   */
  templateFor(adapter: AdapterRecord | undefined, override?: string): Promise<ChatTemplate>;
}

export interface ChatOptions {
  readonly model: ModelChat;
  readonly adapters: Pick<AdapterService, 'chatTemplates'>;
  /** Whether requests may bring a template (--trust-request-chat-template). */
  readonly trustRequests: boolean;
  /** The clock of templates that write dates. */
  readonly now?: () => Date;
}

/**
 * The template of --chat-template, instead of the model's own.
 * @throws LoramuxError config_invalid
 */
export async function readTemplateFile(file: string): Promise<NamedTemplates> {
  try {
    return new Map([[DEFAULT_TEMPLATE, await readFile(file, 'utf8')]]);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError('config_invalid', `--chat-template cannot be read: ${why}`, { cause });
  }
}

/** One template of several: that for tools where the request has some. */
function choosing(
  templates: NamedTemplates,
  compile: (source: string) => ChatTemplate,
): ChatTemplate {
  const compiled = new Map<string, ChatTemplate>();
  for (const name of [DEFAULT_TEMPLATE, TOOL_TEMPLATE]) {
    const source = templates.get(name);
    if (source !== undefined) compiled.set(name, compile(source));
  }
  const choose = (hasTools: boolean): ChatTemplate => {
    const chosen =
      (hasTools ? compiled.get(TOOL_TEMPLATE) : undefined) ?? compiled.get(DEFAULT_TEMPLATE);
    if (chosen !== undefined) return chosen;
    throw new LoramuxError(
      'chat_template_missing',
      `the model has chat templates, but none named "${DEFAULT_TEMPLATE}": ` +
        `${[...templates.keys()].join(', ')}; choose one with --chat-template`,
      { param: 'messages' },
    );
  };
  return {
    source: (hasTools) => choose(hasTools).source(hasTools),
    render: (input) => choose((input.tools?.length ?? 0) > 0).render(input),
  };
}

export function createChat({ model, adapters, trustRequests, now }: ChatOptions): ChatService {
  const clock = now ?? (() => new Date());
  const { specialTokens } = model;
  const compile = (source: string, limits?: RenderLimits) =>
    compileTemplate(source, { specialTokens, now: clock, limits });
  let base: ChatTemplate | undefined;

  /** The model's, compiled when it is first asked for. */
  const baseTemplate = (): ChatTemplate => {
    if (model.templates.size === 0) {
      throw new LoramuxError(
        'chat_template_missing',
        'the model has no chat template; start the server with --chat-template FILE, or send ' +
          'the prompt as text to /v1/completions',
        { param: 'messages' },
      );
    }
    try {
      return choosing(model.templates, compile);
    } catch (cause) {
      throw new LoramuxError(
        'chat_template_missing',
        `the model's chat template cannot be used (${toLoramuxError(cause).message}); start the ` +
          'server with another one, --chat-template FILE',
        { param: 'messages', cause },
      );
    }
  };

  /** By the digest of the generation; undefined for adapters that have none. Oldest use first. */
  const own = new Map<string, ChatTemplate | undefined>();

  const ownTemplate = async ({ digest, ...generation }: AdapterGeneration) => {
    let template = own.get(digest);
    if (template === undefined && !own.has(digest)) {
      const templates = await adapters.chatTemplates({ digest, ...generation });
      const compiled = (source: string) => compile(source, UNTRUSTED);
      template = templates.size === 0 ? undefined : choosing(templates, compiled);
    }
    own.delete(digest);
    own.set(digest, template);
    if (own.size > OWN_TEMPLATES_MAX) own.delete(own.keys().next().value!);
    return template;
  };

  return {
    async templateFor(adapter, override) {
      if (override !== undefined) {
        if (trustRequests) return compile(override, UNTRUSTED);
        throw new LoramuxError(
          'unsupported_field',
          'this server does not take chat templates from requests ' +
            '(--trust-request-chat-template allows it)',
          { param: 'chat_template' },
        );
      }
      const template = adapter && (await ownTemplate(adapter.generation));
      if (template !== undefined) return template;
      base ??= baseTemplate();
      return base;
    },
  };
}
