/** What one WebSocket sends: its generations in turn, answers to frames at once, both bounded. */
import type { WebSocket } from 'ws';

/** Bytes in the socket's send buffer above which its generations wait for it to drain. */
const SEND_BUFFER_HIGH_BYTES = 64 * 1024;

/** Bytes a generation may send before the others of its socket get their turn. */
const TURN_BYTES = 16 * 1024;

/**
 * Bytes of answers to frames that may wait for the peer to read. Generations are held up by the
 * send buffer; whoever sends frames without reading would make the server keep all their answers.
 */
const REPLY_BYTES_MAX = 1024 * 1024;

/** Somebody who takes turns. */
export interface Speaker {
  /** Sends until it has nothing left or about `bytesMax` were sent; true when there is more. */
  speak(bytesMax: number): boolean;
}

export class SocketWriter {
  readonly #socket: WebSocket;
  /** Called when the peer leaves too many answers unread. */
  readonly #onOverflow: (bytes: number) => void;
  /** The next to speak first. */
  readonly #waiting: Speaker[] = [];
  #full = false;
  #speaking = false;
  /** Bytes of answers to frames that are not sent. */
  #replyBytes = 0;

  constructor(socket: WebSocket, onOverflow: (bytes: number) => void) {
    this.#socket = socket;
    this.#onOverflow = onOverflow;
  }

  /** Lets `speaker` speak now, or in its turn once the send buffer has room. */
  admit(speaker: Speaker): void {
    this.#waiting.push(speaker);
    this.#run();
  }

  /** For speakers only. Gives the bytes it took. */
  send(frame: unknown): number {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return 0;
    const text = JSON.stringify(frame);
    if (this.#full || socket.bufferedAmount < SEND_BUFFER_HIGH_BYTES) {
      socket.send(text);
      return text.length;
    }
    // The frame that finds the buffer full tells when all of it is gone.
    this.#full = true;
    socket.send(text, () => {
      this.#full = false;
      this.#run();
    });
    return text.length;
  }

  /** Answers a frame at once. */
  reply(frame: unknown): void {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return;
    if (this.#replyBytes > REPLY_BYTES_MAX) {
      this.#onOverflow(this.#replyBytes);
      return;
    }
    const text = JSON.stringify(frame);
    this.#replyBytes += text.length;
    socket.send(text, () => {
      this.#replyBytes -= text.length;
    });
  }

  #run(): void {
    // A speaker may be admitted by what another one's frame causes; the loop below takes it.
    if (this.#speaking) return;
    this.#speaking = true;
    while (!this.#full) {
      const speaker = this.#waiting.shift();
      if (speaker === undefined) break;
      if (speaker.speak(TURN_BYTES)) this.#waiting.push(speaker);
    }
    this.#speaking = false;
  }
}
