// The REST side: people with tokens, their rooms and what they post.

import { DEADLINE } from './check.mjs';

export class People {
  constructor(baseUrl) {
    this.baseUrl = baseUrl;
  }

  async call(method, path, { token, body } = {}) {
    const headers = { 'Content-Type': 'application/json' };
    if (token) headers.Authorization = `Bearer ${token}`;
    const response = await fetch(this.baseUrl + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(DEADLINE),
    });
    const answer = await response.json();
    if (!answer.success) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer;
  }

  /** A new user who has logged in. */
  async arrive(firstName) {
    const { user } = await this.call('POST', '/users', { body: { firstName, lastName: 'Tester', type: 'consumer' } });
    const { authorization } = await this.call('POST', `/login/${user._id}`);
    return { name: firstName, id: user._id, token: authorization };
  }

  /** The id of the room of these people. */
  async room(caller, ...others) {
    const { chatRoom } = await this.call('POST', '/room/initiate', {
      token: caller.token,
      body: { userIds: others.map((person) => person.id), type: 'consumer-to-consumer' },
    });
    return chatRoom.chatRoomId;
  }

  /** Posts, and returns the `post` of the answer. */
  async post(author, roomId, messageText) {
    const { post } = await this.call('POST', `/room/${roomId}/message`, { token: author.token, body: { messageText } });
    return post;
  }

  /** Does anything else in the name of somebody. */
  async act(person, method, path, body) {
    return this.call(method, path, { token: person.token, body });
  }

  /** All messages of a room as `[seq, id, text]`, by its pages. */
  async conversation(reader, roomId) {
    const read = [];
    for (let hasMore = true; hasMore; ) {
      const page = await this.act(reader, 'GET', `/room/${roomId}?limit=500&after=${read.at(-1)?.[0] ?? 0}`);
      read.push(...page.conversation.map(({ seq, _id, message }) => [seq, _id, message.messageText]));
      hasMore = page.hasMore;
    }
    return read;
  }

  /** Waits until an access token has expired. */
  async hasExpired(token) {
    const headers = { Authorization: `Bearer ${token}` };
    while ((await fetch(`${this.baseUrl}/room`, { headers })).status !== 401) await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export const PASSWORD = 'tall green kettle';

/** People with passwords, whose tokens are refreshed before they expire: these have to be valid for two seconds at least. */
export class Members extends People {
  async arrive(firstName) {
    const username = firstName.toLowerCase();
    const account = { firstName, lastName: 'Tester', type: 'consumer', username, password: PASSWORD };
    await this.call('POST', '/users', { body: account });
    const session = await this.logIn(username);
    return { name: firstName, username, id: session.user._id, ...this.#with(session) };
  }

  logIn(username) {
    return this.call('POST', '/login', { body: { username, password: PASSWORD } });
  }

  async room(caller, ...others) {
    return super.room(await this.#fresh(caller), ...others);
  }

  async post(author, roomId, messageText) {
    return super.post(await this.#fresh(author), roomId, messageText);
  }

  async act(person, method, path, body) {
    return super.act(await this.#fresh(person), method, path, body);
  }

  async #fresh(person) {
    if (Date.now() - person.since < 500) return person;
    person.renewal ??= this.call('POST', '/login/refresh', { body: { refreshToken: person.refreshToken } })
      .then((session) => Object.assign(person, this.#with(session)))
      .finally(() => { person.renewal = undefined; });
    return person.renewal;
  }

  #with({ authorization, refreshToken }) {
    return { token: authorization, refreshToken, since: Date.now() };
  }
}
