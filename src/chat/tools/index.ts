/** The formats by name, and which one a chat template is written for. */
import { HERMES } from './hermes.ts';
import { LLAMA3_JSON } from './llama3-json.ts';
import { MISTRAL } from './mistral.ts';
import type { ToolFormat, ToolFormatName } from './types.ts';

export const FORMATS: Readonly<Record<ToolFormatName, ToolFormat>> = {
  hermes: HERMES,
  llama3_json: LLAMA3_JSON,
  mistral: MISTRAL,
};

/** The format of a name, or that of the template. */
export function toolFormat(name: ToolFormatName | 'auto', templateSource: string): ToolFormat {
  return name === 'auto' ? detectToolFormat(templateSource) : FORMATS[name];
}

/** The format in which a template writes former calls; Hermes' where it shows none of the others. */
function detectToolFormat(templateSource: string): ToolFormat {
  if (templateSource.includes('[TOOL_CALLS]')) return MISTRAL;
  if (templateSource.includes('<tool_call>')) return HERMES;
  const isLlama = templateSource.includes('<|start_header_id|>');
  return isLlama && templateSource.includes('"parameters"') ? LLAMA3_JSON : HERMES;
}
