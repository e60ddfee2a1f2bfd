// The clients that docs/sockets.md shows, verbatim, while the network fails and their tokens expire:
//
//   node comes_back.mjs http://127.0.0.1:3000 secure|open
//
// A line per check; exit code 1 if one failed. In secure mode access tokens should be valid for a few seconds only.

import io2 from 'socket.io-client-2';
import io3 from 'socket.io-client-3';
import { io as io4 } from 'socket.io-client-4';
import { check, expect, expectEqual, finish, until } from './check.mjs';
import { Network } from './network.mjs';
import { Members, People } from './people.mjs';
import { blocks, replaced } from './documents.mjs';

const [baseUrl, mode] = process.argv.slice(2);
if (!baseUrl || !['secure', 'open'].includes(mode)) {
  console.error('usage: node comes_back.mjs <baseUrl> secure|open');
  process.exit(2);
}

const PATIENCE = 40_000;
const [ofSession, ofSocket, ofRequests, ofSocket2, inOpenMode] = blocks('Reconnect');
const [ofCatchingUp, ofAsking] = blocks('Catch up');
const afterwards = ofSocket.slice(ofSocket.indexOf("socket.on('disconnect'"));
const withoutAsk = replaced(ofCatchingUp, ofCatchingUp.match(/^async function ask\(.*?^}\n/ms)[0], ofAsking);

/** What docs/sockets.md says of each generation of the client. */
const SECURE = {
  2: [ofSession, ofSocket2, afterwards, ofRequests, withoutAsk],
  3: [ofSession, replaced(ofSocket, 'socket.active', 'error.type'), ofRequests, withoutAsk],
  4: [ofSession, ofSocket, ofRequests, ofCatchingUp],
};
const OPEN = { 2: [inOpenMode, withoutAsk], 3: [inOpenMode, withoutAsk], 4: [inOpenMode, ofCatchingUp] };
const LIBRARIES = { 2: io2, 3: io3, 4: io4 };

/** What tabs of one browser have in common. */
class Browser {
  /** How many refreshes are to be refused with 429. */
  refusals = 0;
  logins = 0;
  refreshes = 0;

  constructor(session, logIn) {
    this.items = { session: JSON.stringify(session) };
    this.localStorage = { getItem: (key) => this.items[key] ?? null, setItem: (key, value) => { this.items[key] = value; } };
    this.logIn = async () => {
      this.logins += 1;
      this.items.session = JSON.stringify(await logIn());
    };
    let former = Promise.resolve();
    this.navigator = { locks: { request: (_, work) => former = former.then(work) } };
    this.fetch = async (url, options) => {
      if (!url.endsWith('/login/refresh')) return fetch(url, options);
      this.refreshes += 1;
      if (this.refusals-- > 0) return new Response('{"success":false,"message":"rate limited"}', { status: 429 });
      return fetch(url, options);
    };
  }

  get token() {
    return JSON.parse(this.items.session).authorization;
  }
}

/** A page that runs the client of docs/sockets.md, and shows what that has it show. */
class Page {
  /** Room → id of the message → [seq, id, text]. */
  rooms = new Map();
  /** Room → the last number shown. */
  last = new Map();
  problems = [];
  disconnects = [];
  told = 0;

  constructor(name, url, me, generation, transports, browser) {
    Object.assign(this, { name, me, browser });
    const code = (browser ? SECURE : OPEN)[generation].join('\n').replaceAll(/https:\/\/chat\.example\.com|http:\/\/127\.0\.0\.1:3000/g, url);
    // As the library is by default, but quicker.
    const options = { transports, forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, timeout: 1000 };
    const io = (address, more) => LIBRARIES[generation](address, { ...options, ...more });
    const given = {
      io, me: me.id, show: (entry) => this.show(entry), forget: (room) => this.forget(room),
      localStorage: browser?.localStorage, navigator: browser?.navigator, logIn: browser?.logIn, fetch: browser?.fetch,
    };
    const run = new Function(...Object.keys(given), `${code}\nreturn { socket${browser ? ', call' : ''} };`);
    Object.assign(this, run(...Object.values(given)));
    this.socket.on('disconnect', (reason) => this.disconnects.push(reason));
    this.socket.on('token expired', () => { this.told += 1; });
  }

  show({ chatRoomId: room, seq, type, messageId, message, deleted }) {
    const next = (this.last.get(room) ?? 0) + 1;
    if (seq !== next) this.problems.push(`entry ${seq} of ${room} was shown in the place of ${next}`);
    this.last.set(room, seq);
    if (!this.rooms.has(room)) this.rooms.set(room, new Map());
    const messages = this.rooms.get(room);
    if (type === 'message deleted' || deleted) messages.delete(messageId);
    else if (type === 'new message') messages.set(messageId, [seq, messageId, message.message.messageText]);
    else if (type === 'message edited' && messages.has(messageId)) messages.get(messageId)[2] = message.message.messageText;
  }

  forget(room) {
    this.rooms.delete(room);
    this.last.delete(room);
  }

  shows(room) {
    return [...(this.rooms.get(room)?.values() ?? [])];
  }
}

const people = new (mode === 'secure' ? Members : People)(baseUrl);
const network = await Network.to(baseUrl);
let alice, bob, pages, browser, rooms;

/** Waits until each page shows what is in the rooms, and nothing besides. */
async function allIsShown() {
  for (const room of rooms) {
    const there = await people.conversation(alice, room);
    for (const page of pages) {
      await until(() => page.shows(room).at(-1)?.[0] >= there.at(-1)[0] && page.shows(room).length === there.length, `${page.name} shows all`, PATIENCE);
      expectEqual(page.shows(room), there, `${page.name}: what it shows`);
    }
  }
  for (const { name, problems, rooms: shown } of pages) {
    expectEqual(problems, [], `${name}: what was lost or doubled`);
    expectEqual([...shown.keys()].sort(), [...rooms].sort(), `${name}: the rooms`);
  }
}

/** Lets the others write, change and delete until `stop` is called. */
function talk() {
  let talking = true;
  const talk = (async () => {
    for (let round = 0; talking || round < 5; round += 1) {
      for (const room of rooms) {
        const posts = await Promise.all([1, 2, 3].map((n) => people.post(n === 2 ? bob : alice, room, `${round}: ${n} 🦜`)));
        await people.act(alice, 'PUT', `/room/${room}/message/${posts[0].postId}`, { messageText: `${round}: edited` });
        await people.act(bob, 'DELETE', `/delete/message/${posts[1].postId}`);
      }
    }
  })();
  return () => {
    talking = false;
    return talk;
  };
}

async function newRoom(name, ...members) {
  const asked = { userIds: members.map((member) => member.id), type: 'consumer-to-consumer', name };
  const { chatRoom } = await people.act(alice, 'POST', '/room/initiate', asked);
  await people.post(alice, chatRoom.chatRoomId, `Welcome to ${name}`);
  return chatRoom.chatRoomId;
}

/** Cuts the network until the tokens have expired, while the others go on. */
async function outage() {
  const tokens = pages.map((page) => page.browser?.token).filter(Boolean);
  network.cut();
  const members = [bob, ...new Set(pages.map((page) => page.me))];
  const [deleted, ...rest] = rooms;
  await people.act(alice, 'DELETE', `/delete/room/${deleted}`);
  rooms.splice(0, rooms.length, ...rest, await newRoom('a room of the outage', ...members));
  const stop = talk();
  await until(() => pages.every((page) => page.disconnects.length > 0), 'the pages lose their connections', PATIENCE);
  for (const token of tokens) await people.hasExpired(token);
  network.mend();
  return stop;
}

await check('everything here could be tried', async () => {
  [alice, bob] = [await people.arrive('Alice'), await people.arrive('Bob')];
  if (mode === 'secure') await inSecureMode();
  else await withoutTokens();
});
network.close();
finish();

async function inSecureMode() {
  const kinds = [
    ['a page with socket.io 4', 4, ['polling', 'websocket']],
    ['another tab with socket.io 4', 4, ['websocket'], 'the same'],
    ['a page with socket.io 4 over polling', 4, ['polling']],
    ['a page with socket.io 3', 3, ['polling', 'websocket']],
    ['a page with socket.io 2', 2, ['polling', 'websocket']],
    ['a page with socket.io 2 over websocket', 2, ['websocket']],
  ];
  const made = [];
  for (const [index, [name, generation, transports, shared]] of kinds.entries()) {
    const before = made.at(-1);
    const me = shared ? before.me : await people.arrive(`Page.${index}`);
    made.push({ name, generation, transports, me, shared });
  }
  const readers = made.filter(({ shared }) => !shared).map(({ me }) => me);
  rooms = [await newRoom('to be deleted', bob, ...readers), await newRoom('another', bob, ...readers)];
  pages = [];
  for (const { name, generation, transports, me, shared } of made) {
    const own = shared ? pages.at(-1).browser : new Browser(await people.logIn(me.username), () => people.logIn(me.username));
    pages.push(new Page(name, network.url, me, generation, transports, own));
  }
  const browsers = [...new Set(pages.map((page) => page.browser))];

  await check('pages show what was there before, and what comes', async () => {
    const stop = talk();
    await stop();
    await allIsShown();
  });

  await check('a token that expires while they are connected is replaced, and the socket stays', async () => {
    await until(() => pages.every((page) => page.told > 1), 'the pages are told twice', PATIENCE);
    await people.post(alice, rooms[0], 'still there?');
    await allIsShown();
    for (const page of pages) expectEqual(page.disconnects, [], `${page.name}: disconnects`);
  });

  await check('after an outage that outlasts their tokens they come back, and have missed nothing', async () => {
    browsers.at(-1).refusals = browsers[0].refusals = 2;
    const stop = await outage();
    await until(() => pages.every((page) => page.socket.connected), 'the pages are connected again', PATIENCE);
    await stop();
    await allIsShown();
    for (const browser of browsers) expectEqual(browser.logins, 0, 'passwords asked for');
  });

  await check('requests of theirs go through with an expired token', async () => {
    for (const page of pages) {
      await people.act(alice, 'GET', '/room');
      const sent = page.call('POST', `/room/${rooms[0]}/message`, { messageText: `from ${page.name}` });
      const { success, message } = await sent;
      expect(success, `${page.name}: ${message}`);
    }
    await allIsShown();
  });

  await check('whose session is ended logs in once more, and goes on', async () => {
    const before = browsers.map((browser) => browser.refreshes);
    for (const me of readers) {
      const { authorization } = await people.logIn(me.username);
      await people.call('POST', '/logout', { token: authorization, body: { all: true } });
    }
    await until(() => browsers.every((browser) => browser.logins > 0), 'the pages ask for the passwords', PATIENCE);
    await until(() => pages.every((page) => page.socket.connected), 'the pages are connected again', PATIENCE);
    await people.post(alice, rooms[0], 'welcome back');
    await allIsShown();
    for (const [index, browser] of browsers.entries()) {
      expectEqual(browser.logins, 1, 'passwords asked for');
      expect(browser.refreshes - before[index] < 20, `refreshes: ${browser.refreshes - before[index]}`);
    }
  });
  pages.forEach((page) => page.socket.disconnect());
}

async function withoutTokens() {
  const reader = await people.arrive('Reader');
  rooms = [await newRoom('to be deleted', bob, reader), await newRoom('another', bob, reader)];
  pages = [2, 3, 4].map((generation) => new Page(`a page with socket.io ${generation}`, network.url, reader, generation, ['polling', 'websocket']));

  await check('pages show what was there before, and what comes', async () => {
    const stop = talk();
    await stop();
    await allIsShown();
  });

  await check('after an outage they have missed nothing', async () => {
    const stop = await outage();
    await until(() => pages.every((page) => page.socket.connected), 'the pages are connected again', PATIENCE);
    await stop();
    await allIsShown();
  });
  pages.forEach((page) => page.socket.disconnect());
}
