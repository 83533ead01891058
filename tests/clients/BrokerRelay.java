import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.net.ConnectException;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Connections as Spring's broker relay makes them: a "system" one, by which the application sends, and one for each of its
 * WebSocket clients, all with the same login. It asserts that each client gets what is its own, before and after the
 * broker's end.
 *
 * <p>Run by tests/jvm.rs. TCBCHAT_STOMP is the address; the login is `relay`, its passcode `secret`.
 */
public final class BrokerRelay {
    private static final int CLIENTS = 30;
    private static final int WAIT_MS_MAX = 20_000;
    private static final int RETRY_MS = 100;

    private static void check(Object expected, Object actual) {
        if (!expected.equals(actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    private record Frame(String command, Map<String, String> headers, String body) {}

    private static final class Connection implements AutoCloseable {
        private final Socket socket;
        private final DataInputStream input;

        /** Spring sends the client's own CONNECT on, with another login and host; its system connection has no 1.0. */
        Connection(String versions) throws IOException {
            String[] address = System.getenv("TCBCHAT_STOMP").split(":");
            socket = new Socket(address[0], Integer.parseInt(address[1]));
            socket.setSoTimeout(WAIT_MS_MAX);
            input = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
            send("CONNECT\naccept-version:" + versions
                    + "\nheart-beat:10000,10000\nlogin:relay\npasscode:secret\nhost:example\n\n");
            Frame connected = read();
            check("CONNECTED", connected.command);
            check("1.2", connected.headers.get("version"));
            // Either side takes the longer of both intervals: 10 s.
            for (String interval : connected.headers.get("heart-beat").split(",")) {
                check(true, 0 < Integer.parseInt(interval) && Integer.parseInt(interval) <= 10_000);
            }
        }

        void send(String frame) throws IOException {
            socket.getOutputStream().write((frame + "\0").getBytes(StandardCharsets.UTF_8));
        }

        /** With `content-length`, as Spring always sends it. */
        void publish(String destination, String body) throws IOException {
            int length = body.getBytes(StandardCharsets.UTF_8).length;
            send("SEND\ndestination:" + destination + "\ncontent-type:application/json\ncontent-length:" + length + "\n\n"
                    + body);
        }

        void heartBeat() throws IOException {
            socket.getOutputStream().write('\n');
        }

        /** Subscribes, and waits until the broker has done it. No message may come before. */
        void subscribe(String id, String destination) throws IOException {
            send("SUBSCRIBE\nid:" + id + "\ndestination:" + destination + "\nreceipt:" + id + "\n\n");
            Frame receipt = read();
            check("RECEIPT " + id, receipt.command + " " + receipt.headers.get("receipt-id"));
        }

        /** The next message, as subscription and body. */
        String message() throws IOException {
            Frame message = read();
            check("MESSAGE", message.command);
            check("application/json", message.headers.get("content-type"));
            return message.headers.get("subscription") + " " + message.body;
        }

        private String line() throws IOException {
            ByteArrayOutputStream line = new ByteArrayOutputStream();
            for (int next = input.readUnsignedByte(); next != '\n'; next = input.readUnsignedByte()) {
                line.write(next);
            }
            return line.toString(StandardCharsets.UTF_8);
        }

        Frame read() throws IOException {
            String command = line();
            while (command.isEmpty()) {
                command = line();
            }
            Map<String, String> headers = new HashMap<>();
            for (String line = line(); !line.isEmpty(); line = line()) {
                String[] parts = line.split(":", 2);
                headers.putIfAbsent(parts[0], parts[1]);
            }
            // The server sends it with every body.
            byte[] body = input.readNBytes(Integer.parseInt(headers.getOrDefault("content-length", "0")));
            check(0, input.readUnsignedByte());
            return new Frame(command, headers, new String(body, StandardCharsets.UTF_8));
        }

        @Override
        public void close() throws IOException {
            socket.close();
        }
    }

    private final List<Connection> clients = new ArrayList<>();
    private Connection system;

    /** Makes the connections. Spring tries the system's again until there is a broker. */
    private void connect() throws Exception {
        while (true) {
            try {
                system = new Connection("1.1,1.2");
                break;
            } catch (ConnectException noBroker) {
                Thread.sleep(RETRY_MS);
            }
        }
        for (int number = 0; number < CLIENTS; number += 1) {
            clients.add(client(number));
        }
    }

    private static Connection client(int number) throws IOException {
        Connection client = new Connection("1.2,1.1,1.0");
        client.subscribe("sub-0", "/topic/news");
        // What Spring makes of /user/queue/replies: a name with the number of its own session.
        client.subscribe("sub-1", "/queue/replies-user" + number);
        return client;
    }

    private void round() throws IOException {
        system.heartBeat();
        system.publish("/topic/news", "{\"to\": \"all – 😀\"}");
        for (int number = 0; number < CLIENTS; number += 1) {
            system.publish("/queue/replies-user" + number, "{\"to\": " + number + "}");
        }
        for (int number = 0; number < CLIENTS; number += 1) {
            // A queue's message may pass one of a room.
            Set<String> heard = new HashSet<>(Set.of(clients.get(number).message(), clients.get(number).message()));
            check(Set.of("sub-0 {\"to\": \"all – 😀\"}", "sub-1 {\"to\": " + number + "}"), heard);
        }
        // One client's browser is gone: the relay sends DISCONNECT and closes. Another client comes.
        clients.get(0).send("DISCONNECT\n\n");
        clients.get(0).close();
        clients.set(0, client(0));
        // What a client sends to a room.
        clients.get(1).publish("/topic/news", "{\"from\": 1}");
        for (Connection client : clients) {
            check("sub-0 {\"from\": 1}", client.message());
        }
    }

    /** Reads to the end of the stream, and tells whether the broker said why. */
    private static boolean wasTold(Connection connection) {
        boolean wasTold = false;
        try (connection) {
            while (true) {
                check("ERROR", connection.read().command);
                wasTold = true;
            }
        } catch (EOFException end) {
            return wasTold;
        } catch (IOException reset) {
            return wasTold;
        }
    }

    public static void main(String[] arguments) throws Exception {
        BrokerRelay relay = new BrokerRelay();
        for (int round = 1; round <= 3; round += 1) {
            relay.connect();
            relay.round();
            System.out.println("round " + round + " is done");
            if (round < 3) {
                boolean wasTold = wasTold(relay.system);
                for (Connection client : relay.clients) {
                    check(wasTold, wasTold(client));
                }
                relay.clients.clear();
                System.out.println(wasTold ? "the end of the broker was told" : "the broker is gone");
            }
        }
        for (Connection client : relay.clients) {
            client.send("DISCONNECT\n\n");
            client.close();
        }
        relay.system.close();
    }
}
