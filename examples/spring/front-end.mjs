// The client as the Spring application has it. Only the URL is another one.
//
//     npm install
//     LOGIN=alice PASSCODE=wonderland node front-end.mjs tea
//
// It sends each line of its standard input to the application, and shows what comes back.
import { createInterface } from 'node:readline';
import { Client } from '@stomp/stompjs';
import WebSocket from 'ws';

const { CHAT = 'ws://127.0.0.1:8080/ws', LOGIN: login, PASSCODE: passcode } = process.env;
const room = process.argv[2];
if (!room) {
  console.error('usage: node front-end.mjs ROOM');
  process.exit(2);
}

const client = new Client({
  // In a browser: `brokerURL: CHAT`.
  webSocketFactory: () => new WebSocket(CHAT, ['v12.stomp']),
  connectHeaders: { login, passcode },
  // Each client has a pace of its own, so that a server that comes back is not flooded.
  reconnectDelay: 1000 + 2000 * Math.random(),
});
const show = (what) => ({ headers, body }) => console.log(`${what}: ${headers.message ?? body}`);
client.onConnect = () => {
  client.subscribe(`/topic/${room}`, show('room'));
  client.subscribe('/user/queue/replies', show('reply'));
  client.watchForReceipt('ready', () => console.log('ready'));
  client.subscribe('/user/queue/errors', show('error'), { receipt: 'ready' });
};
client.onStompError = ({ headers, body }) => {
  console.error(`the server refuses: ${headers.message}`);
  // A new connection would be refused in the same way.
  if (['not-authenticated', 'expired', 'banned', 'kicked', 'forbidden', 'bad-destination'].includes(body.trim())) process.exit(1);
};
client.onWebSocketError = (error) => console.error(`no connection: ${error.message}`);
client.activate();

createInterface({ input: process.stdin }).on('line', (text) => {
  if (client.connected) client.publish({ destination: '/app/chat', headers: { room }, body: text });
  else console.error('not connected: it is not sent');
});
