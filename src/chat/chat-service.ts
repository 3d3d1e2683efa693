/** Which template a chat is rendered with. */
import { readFile } from 'node:fs/promises';
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterGeneration, AdapterRecord } from '../adapters/types.ts';
import { LoramuxError, toLoramuxError } from '../errors.ts';
import { DEFAULT_TEMPLATE, type NamedTemplates, TOOL_TEMPLATE } from '../jinja/named-templates.ts';
import { OutOfWork, type RenderLimits } from '../jinja/run.ts';
import type { ModelChat } from './model-templates.ts';
import { RenderThread } from './render-thread.ts';
import { isShort, render, TRUSTED, UNTRUSTED } from './rendering.ts';
import { compileTemplate } from './template.ts';
import type { ChatInput, ChatTemplate } from './types.ts';

/** Adapter generations whose templates, or that they have none, are remembered. */
const OWN_TEMPLATES_MAX = 1024;
/**
 * A chat that takes more of the event loop, one or two milliseconds, is begun again in the thread. Not
 * a time, so that a chat is always rendered in the same place.
 */
const INLINE: RenderLimits = { workMax: 4096, timeoutMs: Number.POSITIVE_INFINITY };

export interface ChatService {
  /**
   * The template of a request for the adapter, or for the base without one.
   * @param override the request's own template
   * @throws LoramuxError chat_template_missing, unsupported_field (an override that the
   *   configuration does not allow), those of reading an adapter's templates
   */
  templateFor(adapter: AdapterRecord | undefined, override?: string): Promise<ChatTemplate>;
  /** Fails what is being rendered with shutting_down and ends the threads. Idempotent. */
  close(): Promise<void>;
}

export interface ChatOptions {
  readonly model: ModelChat;
  readonly adapters: Pick<AdapterService, 'chatTemplates'>;
  /** Whether requests may bring a template (--trust-request-chat-template). */
  readonly trustRequests: boolean;
  /** The clock of templates that write dates. */
  readonly now?: () => Date;
  /** Another entry of the threads; for tests of threads that crash. */
  readonly workerUrl?: URL;
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
  templateOf: (source: string) => ChatTemplate,
): ChatTemplate {
  const made = new Map<string, ChatTemplate>();
  for (const name of [DEFAULT_TEMPLATE, TOOL_TEMPLATE]) {
    const source = templates.get(name);
    if (source !== undefined) made.set(name, templateOf(source));
  }
  const choose = (hasTools: boolean): ChatTemplate => {
    const chosen = (hasTools ? made.get(TOOL_TEMPLATE) : undefined) ?? made.get(DEFAULT_TEMPLATE);
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
    render: async (input, signal) => choose((input.tools?.length ?? 0) > 0).render(input, signal),
  };
}

const missing = (message: string, cause?: unknown) =>
  new LoramuxError('chat_template_missing', message, { param: 'messages', cause });

export function createChat(options: ChatOptions): ChatService {
  const { model, adapters, trustRequests, now = () => new Date(), workerUrl } = options;
  const { specialTokens } = model;
  const setup = { specialTokens };
  // One for each side: templates of others delay chats of others only.
  const operators = new RenderThread({ setup, workerUrl });
  const others = new RenderThread({ setup, workerUrl });

  const renderingOf = (source: string, input: ChatInput, limits: RenderLimits) => {
    return { source, input, limits, nowMs: now().getTime() };
  };

  /** Of the operator: short chats are rendered at once. @throws LoramuxError chat_template_invalid */
  const trusted = (source: string): ChatTemplate => {
    const compiled = compileTemplate(source);
    return {
      source: () => source,
      async render(input, signal) {
        if (isShort(input)) {
          try {
            return render(compiled, renderingOf(source, input, INLINE), setup);
          } catch (error) {
            if (!(error instanceof OutOfWork)) throw error;
          }
        }
        return operators.render(renderingOf(source, input, TRUSTED), signal);
      },
    };
  };

  /** What came by the network is not even parsed on the event loop. */
  const untrusted = (source: string): ChatTemplate => ({
    source: () => source,
    render: async (input, signal) => others.render(renderingOf(source, input, UNTRUSTED), signal),
  });

  const baseTemplate = (): ChatTemplate | LoramuxError => {
    if (model.templates.size === 0) {
      return missing(
        'the model has no chat template; start the server with --chat-template FILE, or send ' +
          'the prompt as text to /v1/completions',
      );
    }
    try {
      return choosing(model.templates, trusted);
    } catch (cause) {
      return missing(
        `the model's chat template cannot be used (${toLoramuxError(cause).message}); start the ` +
          'server with another one, --chat-template FILE',
        cause,
      );
    }
  };
  const base = baseTemplate();

  /** By the digest of the generation; undefined for adapters that have none. Oldest use first. */
  const own = new Map<string, ChatTemplate | undefined>();

  const ownTemplate = async (generation: AdapterGeneration) => {
    const { digest } = generation;
    let template = own.get(digest);
    if (template === undefined && !own.has(digest)) {
      const templates = await adapters.chatTemplates(generation);
      template = templates.size === 0 ? undefined : choosing(templates, untrusted);
    }
    own.delete(digest);
    own.set(digest, template);
    if (own.size > OWN_TEMPLATES_MAX) own.delete(own.keys().next().value!);
    return template;
  };

  return {
    async templateFor(adapter, override) {
      if (override !== undefined) {
        if (trustRequests) return untrusted(override);
        throw new LoramuxError(
          'unsupported_field',
          'this server does not take chat templates from requests ' +
            '(--trust-request-chat-template allows it)',
          { param: 'chat_template' },
        );
      }
      const template = adapter && (await ownTemplate(adapter.generation));
      if (template !== undefined) return template;
      if (base instanceof LoramuxError) throw base;
      return base;
    },
    async close() {
      await Promise.all([operators.close(), others.close()]);
    },
  };
}
