// A chat in a terminal, with @stomp/stompjs: it says each line of its standard input in a room, and shows what others say.
//
//     npm install
//     LOGIN=alice PASSCODE=wonderland node chat.mjs tea
//
// CHAT is the server's URL. A token goes into PASSCODE, without a LOGIN. The exit code is 1 when the server refuses.
import { createInterface } from 'node:readline';
import { Client, ReconnectionTimeMode } from '@stomp/stompjs';
import WebSocket from 'ws';

const { CHAT = 'ws://127.0.0.1:8080/ws', LOGIN, PASSCODE, HEART_BEAT_MS = '10000' } = process.env;
const room = process.argv[2];
if (!room) {
  console.error('usage: node chat.mjs ROOM');
  process.exit(2);
}
const destination = `/topic/${room}`;

// After these ERRORs a new connection would be refused in the same way. The body of an ERROR is a line with its name.
const FINAL = ['not-authenticated', 'expired', 'banned', 'kicked', 'forbidden', 'bad-destination', 'body-too-long'];

// Lines that the server has not confirmed, by their receipts. After a lost connection they are said again. A line whose
// receipt was lost comes twice, but no line is lost.
const unconfirmed = new Map();
let lines = 0;
let isAtEnd = false;

// What others have written must not control this terminal.
const printable = (text) => text.replace(/\p{Cc}/gu, '\ufffd');

const client = new Client({
  // In a browser: `brokerURL: CHAT`.
  webSocketFactory: () => new WebSocket(CHAT, ['v12.stomp']),
  connectHeaders: { ...(LOGIN && { login: LOGIN }), ...(PASSCODE && { passcode: PASSCODE }) },
  heartbeatIncoming: Number(HEART_BEAT_MS),
  heartbeatOutgoing: Number(HEART_BEAT_MS),
  connectionTimeout: 10_000,
  // A server that is gone says no goodbye: do not wait for one.
  discardWebsocketOnCommFailure: true,
  // Each client has a pace of its own, so that a server that comes back is not flooded.
  reconnectDelay: 500 + 1000 * Math.random(),
  maxReconnectDelay: 20_000 + 10_000 * Math.random(),
  reconnectTimeMode: ReconnectionTimeMode.EXPONENTIAL,
});

function say(receipt, body) {
  client.watchForReceipt(receipt, () => {
    unconfirmed.delete(receipt);
    leaveAtEnd();
  });
  client.publish({ destination, body, headers: { receipt } });
}

async function leaveAtEnd() {
  if (isAtEnd && unconfirmed.size === 0) {
    await client.deactivate();
    process.exit(0);
  }
}

function refused(headers) {
  console.error(`the server refuses: ${headers.message}`);
  unconfirmed.delete(headers['receipt-id']);
}

client.onConnect = () => {
  client.watchForReceipt('subscribed', () => console.error(`in ${room}`));
  const show = ({ headers, body }) => console.log(printable(`${headers.sender ?? 'somebody'}: ${body}`));
  client.subscribe(destination, show, { receipt: 'subscribed' });
  for (const [receipt, body] of unconfirmed) say(receipt, body);
  leaveAtEnd();
};
client.onStompError = ({ headers, body }) => {
  refused(headers);
  if (FINAL.includes(body.trim())) process.exit(1);
};
// A server with `stomp.refusals = "message"` keeps the session.
client.onUnhandledMessage = ({ headers }) => {
  refused(headers);
  leaveAtEnd();
};
client.onWebSocketError = (error) => console.error(`no connection: ${error.message}`);
client.onWebSocketClose = () => {
  if (client.active) console.error('the connection is lost; trying again');
};
client.activate();

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const receipt = `line-${(lines += 1)}`;
    unconfirmed.set(receipt, line);
    if (client.connected) say(receipt, line);
  })
  .on('close', () => {
    isAtEnd = true;
    if (client.connected) leaveAtEnd();
  });
