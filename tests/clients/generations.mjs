// Clients of socket.io 2, 3 and 4, over every transport, in the same rooms:  node generations.mjs http://127.0.0.1:3000
//
// A line per check; exit code 1 if one failed. Nothing here sleeps and hopes: to see that a client does *not* hear
// a message, it is let in again afterwards and must hear the next one, and messages of a room keep their order.

import http from 'node:http';
import { check, expect, expectEqual, finish, until } from './check.mjs';
import { KINDS, Listener, MIXED } from './listener.mjs';
import { People } from './people.mjs';

const baseUrl = process.argv[2]?.replace(/\/$/, '');
if (!baseUrl) {
  console.error('usage: node generations.mjs <baseUrl>');
  process.exit(2);
}

const UNKNOWN = '0'.repeat(32);
const TEXTS = [
  'plain',
  '👋🏽 👩‍👩‍👧‍👦 🏳️‍🌈 𝕬',
  'مرحبا، كيف حالك؟ שלום עולם',
  '日本語と中文, żółć, e\u0301',
  'quotes " \\ \' ` and </script><b>',
  'controls \u0000 \u001e \u001f \u2028 \r\n\t',
  '2:4📦 10:1:6',
];

const people = new People(baseUrl);
let alice, bob, carol, dave;

await check('everything here could be tried', async () => {
  [alice, bob, carol, dave] = await Promise.all(['Alice', 'Bob', 'Carol', 'Dave'].map((name) => people.arrive(name)));
  await oneRoom();
  await comingInByUpgrade();
  await broughtInByTheOther();
  for (const kind of KINDS) await eachKind(kind);
  await otherOrigins();
  await heartbeats();
});
Listener.closeAll();
finish();

/** All kinds of client in one room hear the same, completely and in order, whatever is written. */
async function oneRoom() {
  const authors = [alice, bob, carol, dave];
  const roomId = await people.room(...authors);
  const listeners = [];

  for (const [index, kind] of KINDS.entries()) {
    await check(`${kind.name} connects, says who it is and subscribes`, async () => {
      const listener = await Listener.connect(baseUrl, kind);
      await listener.does('identity', authors[index % authors.length].id);
      await listener.does('subscribe', roomId);
      listeners.push(listener);
    });
  }

  const posts = [];
  await check('112 messages by four people at once are numbered 1 to 112', async () => {
    const texts = Array.from({ length: 28 }, (_, index) => `${index} ${TEXTS[index % TEXTS.length]}`);
    const burst = authors.flatMap((author) => texts.map((text) => people.post(author, roomId, text)));
    posts.push(...(await Promise.all(burst)).sort((one, other) => one.seq - other.seq));
    expectEqual(posts.map(({ seq }) => seq), posts.map((_, index) => index + 1), 'the numbers in the answers');
  });

  for (const text of [...TEXTS, 'long 🐘 ö ש '.repeat(6000)]) {
    await check(`a text is answered as it was sent: ${JSON.stringify(text.slice(0, 24))}`, async () => {
      const post = await people.post(bob, roomId, text);
      posts.push(post);
      expectEqual(post.message, { messageText: text }, 'the message in the answer');
    });
  }

  for (const listener of listeners) {
    await check(`${listener.name} hears every message once, in order, as the author saw it`, async () => {
      await listener.hears(posts.at(-1));
      expectEqual(listener.heard.map(({ message }) => message?.seq), posts.map(({ seq }) => seq), 'the numbers heard');
      for (const [index, payload] of listener.heard.entries()) {
        expectEqual(payload, { message: posts[index] }, `the payload of message ${index + 1}`);
      }
    });
  }

  await check('no message comes a second time later, and nobody was disconnected', async () => {
    const last = await people.post(carol, roomId, 'the last one');
    for (const listener of listeners) {
      await listener.hears(last);
      expectEqual(listener.heard.length, posts.length + 1, `${listener.name}: messages heard`);
      expectEqual(listener.disconnects, [], `${listener.name}: disconnects`);
    }
  });
}

/** While a client changes its transport, in a room where everybody talks, nothing is lost, doubled or out of order. */
async function comingInByUpgrade() {
  const roomId = await people.room(alice, bob);
  let talking = true;
  const talk = Promise.allSettled(
    [alice, bob, alice, bob].map(async (author) => {
      while (talking) await people.post(author, roomId, 'chatter 🦜');
    }),
  );
  for (const kind of KINDS.filter(({ transports }) => transports.length > 1)) {
    await check(`${kind.name} misses nothing while it upgrades, five times`, async () => {
      for (let round = 0; round < 5; round += 1) {
        const listener = new Listener(baseUrl, kind);
        await listener.connected();
        await listener.does('subscribe', roomId);
        const first = await people.post(alice, roomId, 'subscribed');
        await listener.upgraded();
        const last = await people.post(alice, roomId, 'upgraded');
        await listener.hears(last);
        listener.socket.disconnect();

        const numbers = listener.heard.map(({ message }) => message.seq);
        expect(numbers[0] <= first.seq, `message ${first.seq} was not heard, the first was ${numbers[0]}`);
        expectEqual(numbers, numbers.map((_, index) => numbers[0] + index), 'the numbers heard');
      }
    });
  }
  talking = false;
  await check('the people in that room could post all the while', async () => {
    for (const { reason } of await talk) if (reason) throw reason;
  });
}

/** `subscribe room otherUserId` brings in all sockets which the other user has now. */
async function broughtInByTheOther() {
  const roomId = await people.room(alice, bob, carol);
  for (const kind of MIXED) {
    await check(`${kind.name} subscribes and brings in all sockets of the other user, and only those`, async () => {
      const bobs = await Promise.all(MIXED.map((each) => Listener.connect(baseUrl, each)));
      for (const listener of bobs) await listener.does('identity', bob.id);
      const carols = await Listener.connect(baseUrl, kind);
      await carols.does('identity', carol.id);

      const alices = await Listener.connect(baseUrl, kind);
      await alices.does('identity', alice.id);
      await alices.does('subscribe', roomId, bob.id);
      const late = await Listener.connect(baseUrl, kind);
      await late.does('identity', bob.id);

      await isDeaf(carols, roomId, [alices, ...bobs]);
      await isDeaf(late, roomId, [alices, ...bobs]);
      for (const listener of [alices, carols, late, ...bobs]) listener.socket.disconnect();
    });
  }
}

/** What every kind of client may count on. Each step begins where the one before ended, so the first failure ends them. */
async function eachKind(kind) {
  const roomId = await people.room(alice, bob);
  let witness, listener;

  const steps = {
    'comes where another already listens': async () => {
      witness = await Listener.connect(baseUrl, MIXED[2]);
      await witness.does('subscribe', roomId);
      listener = await Listener.connect(baseUrl, kind);
    },

    'hears without having said who it is': async () => {
      await listener.does('subscribe', roomId);
      await listener.hears(await people.post(alice, roomId, 'for anyone'));
    },

    'subscribes with null or an empty string for the other user': async () => {
      await listener.does('subscribe', roomId, null);
      await listener.does('subscribe', roomId, '');
    },

    'mutes a room, the others still hear': async () => {
      await listener.does('unsubscribe', roomId);
      await isDeaf(listener, roomId, [witness]);
    },

    'has its events taken in the order it sent them': async () => {
      for (let round = 0; round < 20; round += 1) {
        listener.tell('subscribe', roomId);
        listener.tell('unsubscribe', roomId);
      }
      await listener.does('unsubscribe', roomId);
      await isDeaf(listener, roomId, [witness]);
      for (let round = 0; round < 20; round += 1) {
        listener.tell('unsubscribe', roomId);
        listener.tell('subscribe', roomId);
      }
      await listener.does('subscribe', roomId);
      await listener.hears(await people.post(alice, roomId, 'subscribed in the end'));
    },

    'says it is somebody else, and is': async () => {
      await listener.does('unsubscribe', roomId);
      await listener.does('identity', bob.id);
      await listener.does('identity', carol.id);
      await witness.does('subscribe', roomId, bob.id);
      await isDeaf(listener, roomId, [witness]);
      await listener.does('unsubscribe', roomId);
      await witness.does('subscribe', roomId, carol.id);
      await listener.hears(await people.post(alice, roomId, 'for Carol'));
    },

    'leaves, is forgotten, comes back and subscribes again': async () => {
      await listener.does('identity', bob.id);
      const { engine } = listener;
      listener.socket.disconnect();
      // Old clients mix up two connections when the next one is opened before this one has closed.
      await until(() => engine.readyState === 'closed', 'the connection is closed');
      await witness.hears(await people.post(alice, roomId, 'while away'));
      listener.socket.connect();
      await listener.connected();
      await witness.does('subscribe', roomId, bob.id);
      await isDeaf(listener, roomId, [witness]);
    },

    'loses its connection, comes back by itself and subscribes again': async () => {
      const before = listener.socket.id;
      listener.engine.close();
      await until(() => listener.socket.connected && listener.socket.id !== before, 'a new connection');
      await isDeaf(listener, roomId, [witness]);
    },

    'heard nothing twice and nothing out of order': () => {
      const numbers = listener.heard.map(({ message }) => message.seq);
      expectEqual(numbers, [...new Set(numbers)].sort((one, other) => one - other), 'the numbers heard');
      expectEqual(listener.disconnects, ['io client disconnect', 'forced close'], 'the disconnects');
    },

    'is refused what makes no sense, and stays': () => nonsense(listener, roomId),
  };
  for (const [what, step] of Object.entries(steps)) {
    if (!(await check(`${kind.name} ${what}`, step))) break;
  }

  witness?.socket.disconnect();
  listener?.socket.disconnect();
}

/** No payload ends a connection, with or without an acknowledgement: `listener` is in the room before and after. */
async function nonsense(listener, roomId) {
  const disconnects = listener.disconnects.length;
  const events = { identity: alice.id, subscribe: roomId, unsubscribe: roomId };
  for (const [event, valid] of Object.entries(events)) {
    const payloads = {
      nothing: [],
      'a number': [5],
      null: [null],
      true: [true],
      'an empty string': [''],
      'what is no id': ['nobody'],
      '10 kB of text': ['x'.repeat(10_240)],
      'an object': [{}],
      'an object with a good id': [{ id: valid }],
      'an array': [[]],
      'an array with a good id': [[valid]],
      bytes: [Buffer.from('bytes')],
      'too many wrong ones': [null, 5, {}],
    };
    if (event !== 'unsubscribe') payloads['an unknown id'] = [UNKNOWN];
    for (const [what, payload] of Object.entries(payloads)) {
      await listener.isRefused(event, ...payload).catch((error) => {
        throw new Error(`${what}: ${error.message}`);
      });
      listener.tell(event, ...payload);
    }
  }
  for (const other of [5, {}, [], true, UNKNOWN, 'x'.repeat(10_240)]) {
    const answer = await listener.ask('subscribe', roomId, other);
    expect(typeof answer?.success === 'boolean', `subscribe with ${typeof other}: ${JSON.stringify(answer)}`);
    listener.tell('subscribe', roomId, other);
  }
  await listener.hears(await people.post(alice, roomId, 'still here'));
  expectEqual(listener.disconnects.length, disconnects, 'the number of disconnects');
}

/** Sees that `listener` does not hear the room now, while the `witnesses` do. It is subscribed afterwards. */
async function isDeaf(listener, roomId, witnesses) {
  const missed = await people.post(alice, roomId, 'not for all');
  await Promise.all(witnesses.map((witness) => witness.hears(missed)));
  await listener.does('subscribe', roomId);
  const next = await people.post(alice, roomId, 'for all');
  await Promise.all([listener, ...witnesses].map((each) => each.hears(next)));
  expect(!listener.hasHeard(missed), `${listener.name} heard message ${missed.seq}, which was not for it`);
}

/** Pages of any origin may connect. Those with socket.io 2 ask with credentials, for which `*` is no answer. */
async function otherOrigins() {
  for (const protocol of [3, 4]) {
    await check(`a page of another origin may connect with protocol ${protocol}`, async () => {
      const origin = 'http://elsewhere.example';
      const headers = await new Promise((resolve, reject) => {
        const url = `${baseUrl}/socket.io/?EIO=${protocol}&transport=polling`;
        http.get(url, { headers: { Origin: origin } }, (response) => resolve(response.resume().headers)).on('error', reject);
      });
      const allowed = headers['access-control-allow-origin'];
      if (protocol === 3) {
        expectEqual([allowed, headers['access-control-allow-credentials']], [origin, 'true'], 'origin and credentials');
      } else {
        expect([origin, '*'].includes(allowed), `access-control-allow-origin is ${allowed}`);
      }
    });
  }
}

/** Quiet clients stay. Only with a short ping interval can this be seen in reasonable time. */
async function heartbeats() {
  const opening = await (await fetch(`${baseUrl}/socket.io/?EIO=4&transport=polling`)).text();
  const { pingInterval, pingTimeout } = JSON.parse(opening.slice(1));
  if (pingInterval + pingTimeout > 5000) {
    console.log(`-- not seen: quiet clients stay (the server pings every ${pingInterval} ms)`);
    return;
  }
  await check(`all kinds of client stay, quiet, for five pings of ${pingInterval} ms`, async () => {
    const roomId = await people.room(alice, dave);
    const listeners = await Promise.all(KINDS.map((kind) => Listener.connect(baseUrl, kind)));
    for (const listener of listeners) await listener.does('subscribe', roomId);
    for (const listener of listeners) {
      await until(() => listener.heartbeats >= 5, `${listener.name} sees five pings`, 5 * pingInterval + 10_000);
    }
    const post = await people.post(dave, roomId, 'good morning');
    for (const listener of listeners) {
      await listener.hears(post);
      expectEqual(listener.disconnects, [], `${listener.name}: disconnects`);
    }
  });
}
