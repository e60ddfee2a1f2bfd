// The page `examples/room.html`, in a document that has just what it needs, while the network fails:
//
//   node one_page.mjs http://127.0.0.1:3000 secure|open

import { readFileSync } from 'node:fs';
import { io } from 'socket.io-client-4';
import { check, expect, expectEqual, finish, until } from './check.mjs';
import { Network } from './network.mjs';
import { Members, PASSWORD, People } from './people.mjs';
import { blocks } from './documents.mjs';

const [baseUrl, mode] = process.argv.slice(2);
const PATIENCE = 40_000;
const page = readFileSync(new URL('../../examples/room.html', import.meta.url), 'utf8');
const [, script] = page.match(/<script type="module">(.*?)<\/script>/s);

/** An element, as far as the page uses it. */
class Element {
  children = [];
  hidden = false;
  textContent = '';

  append(child) {
    child.remove();
    child.parent = this;
    this.children.push(child);
  }

  remove() {
    if (this.parent) this.parent.children = this.parent.children.filter((child) => child !== this);
    this.parent = undefined;
  }

  scrollIntoView() {}
}

/** Runs the script of the page, and has somebody enter. */
function open(url, fields) {
  const elements = Object.fromEntries(['enter', 'write', 'messages', 'status'].map((id) => [id, new Element()]));
  const { enter, write, messages } = elements;
  for (const name of ['server', 'who', 'password', 'other']) enter[name] = { value: fields[name] ?? '' };
  enter.server.value = url;
  write.text = { value: '' };
  const window = { ...elements, sockets: [], reloads: 0 };
  const document = {
    getElementById: (id) => elements[id] ?? messages.children.find((child) => child.id === id) ?? null,
    createElement: () => new Element(),
  };
  const quick = (address, options) => {
    const socket = io(address, { ...options, forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100, timeout: 1000 });
    window.sockets.push(socket);
    return socket;
  };
  const location = { reload: () => { window.reloads += 1; } };
  new Function('document', 'io', 'location', script)(document, quick, location);
  enter.onsubmit();
  return window;
}

/** The access token that the page has. */
function tokenOf({ sockets: [socket] }) {
  let shown;
  socket.auth(({ token }) => { shown = token; });
  return shown;
}

const texts = (window) => window.messages.children.map(({ textContent }) => textContent);

const people = new (mode === 'secure' ? Members : People)(baseUrl);
const network = await Network.to(baseUrl);

await check('docs/sockets.md shows the page as it is', () => expectEqual(blocks('A whole client in one page', 'html'), [page], 'the block'));

await check('everything here could be tried', async () => {
  const alice = await people.arrive('Alice');
  const fields = { who: 'walter', password: mode === 'secure' ? PASSWORD : '', other: alice.id };
  const window = open(network.url, fields);
  let room;
  const isShown = async () => {
    const there = (await people.conversation(alice, room)).map(([, , text]) => text);
    await until(() => texts(window).length === there.length, `all is shown; the status is ${window.status.textContent}`, PATIENCE);
    expectEqual(texts(window).map((text) => text.split(': ')[1]), there, 'what is shown');
  };

  await check('it registers whoever enters, and makes a room', async () => {
    await until(() => !window.write.hidden || window.status.textContent.includes('room of'), 'the room is open', PATIENCE);
    await until(() => window.status.textContent.includes('in the room of'), 'the room is open', PATIENCE);
    window.write.text.value = 'Hello';
    window.write.onsubmit();
    await until(() => texts(window).length === 1, 'what was written is shown', PATIENCE);
    expectEqual(texts(window), ['walter: Hello'], 'what is shown');
    [room] = (await people.act(alice, 'GET', '/room')).conversation.map(({ chatRoomId }) => chatRoomId);
  });

  await check('it shows messages, edits and deletions as they come', async () => {
    const posts = [];
    for (const text of ['one', 'two', 'three']) posts.push(await people.post(alice, room, text));
    await people.act(alice, 'PUT', `/room/${room}/message/${posts[0].postId}`, { messageText: 'uno' });
    await people.act(alice, 'DELETE', `/delete/message/${posts[1].postId}`);
    await people.post(alice, room, 'four');
    await until(() => texts(window).at(-1) === 'Alice: four', 'the last message is shown', PATIENCE);
    await isShown();
  });

  await check('after an outage it shows what was missed', async () => {
    const lost = new Promise((resolve) => { window.sockets[0].once('disconnect', resolve); });
    network.cut();
    const posts = [];
    for (let n = 0; n < 20; n += 1) posts.push(await people.post(alice, room, `missed ${n}`));
    await people.act(alice, 'PUT', `/room/${room}/message/${posts[0].postId}`, { messageText: 'edited meanwhile' });
    await people.act(alice, 'DELETE', `/delete/message/${posts[1].postId}`);
    await lost;
    if (mode === 'secure') await people.hasExpired(tokenOf(window));
    network.mend();
    await isShown();
    window.write.text.value = 'I am back';
    window.write.onsubmit();
    await until(() => texts(window).at(-1) === 'walter: I am back', 'what was written is shown', PATIENCE);
    await isShown();
    expectEqual([window.sockets.length, window.reloads], [1, 0], 'sockets, and times that it had to begin anew');
  });

  if (mode === 'secure') {
    await check('whose session is ended has to enter again', async () => {
      const { authorization } = await people.logIn('walter');
      await people.call('POST', '/logout', { token: authorization, body: { all: true } });
      await until(() => window.reloads > 0, 'the page is loaded again', PATIENCE);
      expect(window.reloads === 1, `${window.reloads} times`);
    });
  }
  window.sockets.forEach((socket) => socket.disconnect());
});
network.close();
finish();
