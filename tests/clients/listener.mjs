// A real client of one generation and one transport, which remembers what it heard.

import io2 from 'socket.io-client-2';
import io3 from 'socket.io-client-3';
import { io as io4 } from 'socket.io-client-4';
import { DEADLINE, expect, expectEqual, until } from './check.mjs';

const GENERATIONS = [[2, io2], [3, io3], [4, io4]];
const TRANSPORTS = [
  ['websocket', ['websocket']],
  ['polling', ['polling']],
  ['polling, then websocket', ['polling', 'websocket']],
];

/** Every generation with every transport. */
export const KINDS = GENERATIONS.flatMap(([generation, io]) =>
  TRANSPORTS.map(([path, transports]) => ({ name: `socket.io ${generation} over ${path}`, generation, io, transports })),
);

/** One kind of each generation, over different transports. */
export const MIXED = [KINDS[0], KINDS[4], KINDS[8]];

const everyone = new Set();

export class Listener {
  /** Payloads of `new message`, in the order heard. */
  heard = [];
  /** Why it was disconnected, each time. */
  disconnects = [];
  heartbeats = 0;

  constructor(baseUrl, kind) {
    this.kind = kind;
    this.name = kind.name;
    // A path in the URL would be a namespace to the client.
    const { origin, pathname } = new URL(baseUrl);
    this.socket = kind.io(origin, {
      path: `${pathname.replace(/\/$/, '')}/socket.io`,
      transports: kind.transports,
      forceNew: true,
      timeout: DEADLINE,
      reconnectionDelay: 10,
      reconnectionDelayMax: 100,
    });
    this.socket.on('new message', (...payload) => this.heard.push(payload.length === 1 ? payload[0] : payload));
    this.socket.on('disconnect', (reason) => this.disconnects.push(reason));
    everyone.add(this);
  }

  /** A client that is connected, over its last transport. */
  static async connect(baseUrl, kind) {
    const listener = new Listener(baseUrl, kind);
    await listener.connected();
    await listener.upgraded();
    listener.engine.on('packet', ({ type }) => {
      // The client asks for signs of life in the old protocol, the server in the new one.
      if (type === (kind.generation === 2 ? 'pong' : 'ping')) listener.heartbeats += 1;
    });
    return listener;
  }

  static closeAll() {
    for (const { socket } of everyone) socket.disconnect();
    everyone.clear();
  }

  get engine() {
    return this.socket.io.engine;
  }

  connected() {
    return until(() => this.socket.connected, `${this.name} connects`);
  }

  upgraded() {
    const last = this.kind.transports.at(-1);
    return until(() => this.engine.transport.name === last && !this.engine.upgrading, `${this.name} reaches ${last}`);
  }

  /** Emits with an acknowledgement callback and returns what it was called with. */
  ask(event, ...payload) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${this.name}: no acknowledgement of ${event} within ${DEADLINE / 1000} s`)),
        DEADLINE,
      );
      this.socket.emit(event, ...payload, (...answer) => {
        clearTimeout(timer);
        resolve(answer.length === 1 ? answer[0] : answer);
      });
    });
  }

  /** Emits without one. */
  tell(event, ...payload) {
    this.socket.emit(event, ...payload);
  }

  async does(event, ...payload) {
    expectEqual(await this.ask(event, ...payload), { success: true }, `${this.name}: acknowledgement of ${event}`);
  }

  async isRefused(event, ...payload) {
    const answer = await this.ask(event, ...payload);
    const refused = answer?.success === false && typeof answer.message === 'string' && answer.message !== '';
    expect(refused, `${event} is not refused with a reason, the answer is ${JSON.stringify(answer)}`);
  }

  hasHeard({ postId }) {
    return this.heard.some(({ message }) => message?.postId === postId);
  }

  hears(post) {
    return until(() => this.hasHeard(post), `${this.name} hears message ${post.seq}`);
  }
}
