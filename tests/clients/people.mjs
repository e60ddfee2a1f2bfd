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
}
