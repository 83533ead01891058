import jakarta.websocket.CloseReason;
import jakarta.websocket.CloseReason.CloseCodes;
import jakarta.websocket.OnClose;
import jakarta.websocket.OnError;
import jakarta.websocket.OnMessage;
import jakarta.websocket.OnOpen;
import jakarta.websocket.Session;
import jakarta.websocket.server.ServerEndpoint;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.ReentrantLock;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.catalina.Context;
import org.apache.catalina.LifecycleException;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.servlets.DefaultServlet;
import org.apache.catalina.startup.Tomcat;
import org.apache.tomcat.websocket.server.WsSci;

/**
 * A STOMP broker for rooms on embedded Tomcat, as one writes it with jakarta.websocket, to measure others against.
 *
 * <p>It has Tomcat's own defaults except for the number of connections. A session has a queue, and a lock that one
 * thread at a time holds to write it out; a room hands its messages to the queues under a lock of its own, so that all
 * members see one order, and writes to sockets without it. A WebSocket message carries one STOMP frame, as all clients
 * of the measurement have it. Heart-beats are not offered, acknowledgements and transactions are refused.
 *
 * <p>Arguments: the port on 127.0.0.1 (0 for a free one), the most connections, a directory for Tomcat. It says on
 * standard output where it listens, and ends with SIGTERM.
 */
public final class StompServer {
    /** Characters that may wait for one session; more of them close it. */
    private static final int WAITING_CHARS_MAX = 8 << 20;
    /** Connections waiting to be accepted. */
    private static final int BACKLOG = 4096;
    /** As long as the message ids of the servers beside it: the same message takes the same bytes. */
    private static final String LIFE = "00000000f1000000-";

    private static final ConcurrentHashMap<String, Room> ROOMS = new ConcurrentHashMap<>();
    private static final AtomicLong MESSAGES = new AtomicLong();
    /** Held here, or its level would be forgotten. */
    private static final Logger TOMCAT_LOG = Logger.getLogger("org.apache");

    private StompServer() {}

    /** Serves until the process ends. */
    public static void main(String[] arguments) {
        try {
            serve(arguments);
        } catch (LifecycleException problem) {
            TOMCAT_LOG.log(Level.SEVERE, "Tomcat does not start", problem);
            // Threads that it has started would go on.
            System.exit(1);
        }
    }

    private static void serve(String[] arguments) throws LifecycleException {
        TOMCAT_LOG.setLevel(Level.WARNING);
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(arguments[2]);
        Connector connector = new Connector();
        connector.setProperty("address", "127.0.0.1");
        connector.setPort(Integer.parseInt(arguments[0]));
        connector.setProperty("maxConnections", arguments[1]);
        connector.setProperty("acceptCount", Integer.toString(BACKLOG));
        connector.setThrowOnFailure(true);
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", arguments[2]);
        context.addServletContainerInitializer(new WsSci(), Set.of(Endpoint.class));
        // What is no upgrade needs a servlet, or the filter that upgrades is never asked.
        Tomcat.addServlet(context, "default", new DefaultServlet()).addMapping("/");
        tomcat.start();
        System.out.println("tomcat ready: listening on http://127.0.0.1:" + connector.getLocalPort());
        System.out.flush();
        tomcat.getServer().await();
    }

    /** One client. */
    @ServerEndpoint(value = "/ws", subprotocols = "v12.stomp")
    public static final class Endpoint {
        /** By the id of the subscription. Frames of one client are handled one after the other. */
        private final Map<String, Subscription> subscriptions = new HashMap<>();
        private Client client;

        /** A WebSocket connection is there. */
        @OnOpen
        public void opened(Session session) {
            client = new Client(session);
        }

        /** A frame, or a heart-beat. */
        @OnMessage
        public void received(String text) {
            Frame frame = Frame.read(text);
            if (frame == null) {
                return;
            }
            String problem = take(frame);
            if (problem != null) {
                client.refuse(problem);
                return;
            }
            String receipt = frame.headers.get("receipt");
            if (receipt != null && !frame.command.equals("CONNECT")) {
                client.say("RECEIPT\nreceipt-id:" + receipt + "\n\n\0");
            }
        }

        /** What is wrong with the frame, if anything is. */
        private String take(Frame frame) {
            if (frame.command.equals("CONNECT") || frame.command.equals("STOMP")) {
                client.connected = true;
                client.say("CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0");
                return null;
            }
            if (!client.connected) {
                return "the first frame is CONNECT";
            }
            String destination = frame.headers.get("destination");
            String id = frame.headers.get("id");
            switch (frame.command) {
                case "SEND":
                    if (destination == null) {
                        return "SEND has no destination";
                    }
                    Room room = ROOMS.get(destination);
                    if (room != null) {
                        room.publish(frame.headers.getOrDefault("content-type", "text/plain"), frame.body);
                    }
                    return null;
                case "SUBSCRIBE":
                    if (destination == null || id == null) {
                        return "SUBSCRIBE has no destination or no id";
                    }
                    Subscription subscription = new Subscription(client, destination, id);
                    if (subscriptions.putIfAbsent(id, subscription) != null) {
                        return "there is a subscription with this id";
                    }
                    subscription.join();
                    return null;
                case "UNSUBSCRIBE":
                    Subscription ended = id == null ? null : subscriptions.remove(id);
                    if (ended == null) {
                        return "there is no subscription with this id";
                    }
                    ended.leave();
                    return null;
                case "DISCONNECT":
                    leaveAll();
                    return null;
                default:
                    return "this server does not know " + frame.command;
            }
        }

        private void leaveAll() {
            subscriptions.values().forEach(Subscription::leave);
            subscriptions.clear();
        }

        /** The connection has ended, in whatever way. */
        @OnClose
        public void closed() {
            leaveAll();
        }

        /** A connection that broke: {@link #closed} follows. */
        @OnError
        public void failed(Throwable problem) {
            if (!(problem instanceof IOException)) {
                TOMCAT_LOG.log(Level.WARNING, "a client's frame", problem);
            }
        }
    }

    /** What a client sent. Escapes are left as they are: what is repeated to others needs them again. */
    private record Frame(String command, Map<String, String> headers, String body) {
        /** Null for a heart-beat. */
        static Frame read(String text) {
            int head = text.indexOf("\n\n");
            if (head < 0) {
                return null;
            }
            int end = text.endsWith("\0") ? text.length() - 1 : text.length();
            int line = text.indexOf('\n');
            String command = text.substring(0, line);
            Map<String, String> headers = new HashMap<>();
            while (line < head) {
                int next = text.indexOf('\n', line + 1);
                int colon = text.indexOf(':', line);
                if (colon > 0 && colon < next) {
                    // Of headers that come twice the first counts.
                    headers.putIfAbsent(text.substring(line + 1, colon), text.substring(colon + 1, next));
                }
                line = next;
            }
            return new Frame(command, headers, text.substring(head + 2, Math.max(head + 2, end)));
        }
    }

    /** A client's membership of a room. */
    private record Subscription(Client client, String destination, String id) {
        void join() {
            ROOMS.compute(destination, (name, room) -> {
                Room joined = room == null ? new Room(name) : room;
                joined.members.add(this);
                return joined;
            });
        }

        void leave() {
            ROOMS.computeIfPresent(destination, (name, room) -> {
                room.members.remove(this);
                return room.members.isEmpty() ? null : room;
            });
        }
    }

    /** Everybody who subscribed to one destination. */
    private static final class Room {
        private final String destination;
        private final Set<Subscription> members = ConcurrentHashMap.newKeySet();

        Room(String destination) {
            this.destination = destination;
        }

        void publish(String type, String body) {
            List<Client> reached = new ArrayList<>();
            synchronized (this) {
                String before = "MESSAGE\nsubscription:";
                String after = "\nmessage-id:" + LIFE + MESSAGES.incrementAndGet() + "\ndestination:" + destination
                        + "\ncontent-type:" + type + "\ncontent-length:" + utf8Length(body) + "\n\n" + body + "\0";
                // Most clients call their first subscription the same: one text for all of them.
                Map<String, String> texts = new HashMap<>();
                for (Subscription member : members) {
                    member.client.queue(texts.computeIfAbsent(member.id, id -> before + id + after));
                    reached.add(member.client);
                }
            }
            reached.forEach(Client::flush);
        }

        private static int utf8Length(String text) {
            return text.getBytes(StandardCharsets.UTF_8).length;
        }
    }

    /** The sending side of a session. Its identity is its own: it is a key of sets. */
    private static final class Client {
        private final Session session;
        private final Queue<String> waiting = new ConcurrentLinkedQueue<>();
        private final AtomicInteger waitingChars = new AtomicInteger();
        /** Whoever holds it writes. */
        private final ReentrantLock writing = new ReentrantLock();
        private boolean connected;

        Client(Session session) {
            this.session = session;
        }

        void say(String text) {
            queue(text);
            flush();
        }

        void queue(String text) {
            waitingChars.addAndGet(text.length());
            waiting.add(text);
        }

        /** Writes what waits, unless somebody is at it, who then writes this, too. */
        void flush() {
            while (!waiting.isEmpty() && writing.tryLock()) {
                try {
                    for (String text = waiting.poll(); text != null; text = waiting.poll()) {
                        waitingChars.addAndGet(-text.length());
                        if (session.isOpen()) {
                            session.getBasicRemote().sendText(text);
                        }
                    }
                } catch (IOException | IllegalStateException problem) {
                    // The connection is gone; its end is told to the endpoint.
                    forget();
                } finally {
                    writing.unlock();
                }
            }
            if (waitingChars.get() > WAITING_CHARS_MAX) {
                close(CloseCodes.VIOLATED_POLICY, "slow");
            }
        }

        void refuse(String problem) {
            say("ERROR\nmessage:" + problem + "\n\n\0");
            close(CloseCodes.PROTOCOL_ERROR, problem);
        }

        private void close(CloseCodes code, String reason) {
            try {
                session.close(new CloseReason(code, reason));
            } catch (IOException problem) {
                // It is gone already.
                forget();
            }
        }

        private void forget() {
            for (String text = waiting.poll(); text != null; text = waiting.poll()) {
                waitingChars.addAndGet(-text.length());
            }
        }
    }
}
