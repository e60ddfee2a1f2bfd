// A network between clients and a server that can be cut.

import net from 'node:net';

export class Network {
  #lines = new Set();
  #isCut = false;

  /** A network with an address of its own, by which the server is reached. */
  static async to(baseUrl) {
    const network = new Network();
    const { hostname: host, port } = new URL(baseUrl);
    network.server = net.createServer((client) => network.#connect(client, net.connect({ host, port })));
    await new Promise((resolve) => network.server.listen(0, '127.0.0.1', resolve));
    network.url = `http://127.0.0.1:${network.server.address().port}`;
    return network;
  }

  #connect(client, server) {
    const line = [client, server];
    const end = () => {
      line.forEach((side) => side.destroy());
      this.#lines.delete(line);
    };
    line.forEach((side) => side.setNoDelay().on('error', end).on('close', end));
    if (this.#isCut) return end();
    this.#lines.add(line);
    client.on('data', (data) => this.#isCut || server.write(data));
    server.on('data', (data) => this.#isCut || client.write(data));
  }

  /** From now on nothing arrives, in either direction, and nobody is told. New connections fail. */
  cut() {
    this.#isCut = true;
  }

  /** New connections succeed again. Those from before are dead. */
  mend() {
    for (const line of this.#lines) line.forEach((side) => side.destroy());
    this.#isCut = false;
  }

  close() {
    this.cut();
    this.mend();
    this.server.close();
  }
}
