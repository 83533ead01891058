import java.io.EOFException;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.Map;
import java.util.Queue;
import java.util.UUID;
import org.apache.activemq.transport.stomp.StompConnection;
import org.apache.activemq.transport.stomp.StompFrame;

/**
 * The round of a STOMP client with ActiveMQ's own, over plain TCP, in all three versions.
 *
 * <p>Run by tests/jvm.rs. TCBCHAT_STOMP is the address; the login is `relay`, its passcode `secret`.
 */
public final class ActiveMqStomp {
    private static final int WAIT_MS_MAX = 10_000;

    private static String unique(String kind) {
        return kind + "-" + UUID.randomUUID().toString().substring(0, 12);
    }

    private static void check(Object expected, Object actual) {
        if (!expected.equals(actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    /** One connection, and the messages that came before an awaited receipt. */
    private static final class Session implements AutoCloseable {
        final StompConnection connection = new StompConnection();
        final String version;
        final Queue<StompFrame> messages = new ArrayDeque<>();
        int receipts;

        Session(String version, String passcode, String heartBeat) throws Exception {
            this.version = version;
            String[] address = System.getenv("TCBCHAT_STOMP").split(":");
            connection.open(address[0], Integer.parseInt(address[1]));
            connection.setVersion(version);
            HashMap<String, String> headers = new HashMap<>(Map.of("login", "relay", "passcode", passcode));
            if (!version.equals("1.0")) {
                headers.putAll(Map.of("accept-version", version, "host", "example", "heart-beat", heartBeat));
            }
            connection.connect(headers);
        }

        Session(String version) throws Exception {
            this(version, "secret", "0,0");
        }

        StompFrame message() throws Exception {
            if (!messages.isEmpty()) {
                return messages.remove();
            }
            StompFrame frame = connection.receive(WAIT_MS_MAX);
            check("MESSAGE", frame.getAction());
            return frame;
        }

        String body() throws Exception {
            return message().getBody();
        }

        String nextReceipt() {
            receipts += 1;
            return "r-" + receipts;
        }

        void await(String receipt) throws Exception {
            while (true) {
                StompFrame frame = connection.receive(WAIT_MS_MAX);
                if (frame.getAction().equals("RECEIPT")) {
                    check(receipt, frame.getHeaders().get("receipt-id"));
                    return;
                }
                check("MESSAGE", frame.getAction());
                messages.add(frame);
            }
        }

        void subscribe(String id, String destination, String ack) throws Exception {
            String receipt = nextReceipt();
            connection.subscribe(destination, ack, new HashMap<>(Map.of("id", id, "receipt", receipt)));
            await(receipt);
        }

        void send(String destination, String body) throws Exception {
            String receipt = nextReceipt();
            connection.send(destination, body, null, new HashMap<>(Map.of("receipt", receipt)));
            await(receipt);
        }

        /** By the client's own method, which names the message as 1.0 and 1.1 do. For 1.2 it has none. */
        void ack(StompFrame message, String transaction) throws Exception {
            if (version.equals("1.2")) {
                String more = transaction == null ? "" : "transaction:" + transaction + "\n";
                connection.sendFrame("ACK\nid:" + message.getHeaders().get("ack") + "\n" + more + "\n\0");
            } else {
                connection.ack(message, transaction);
            }
        }

        /** Nothing is under way: what is sent last comes next. */
        void expectNothingMore() throws Exception {
            String marker = unique("/topic/marker");
            subscribe("marker", marker, "auto");
            send(marker, "marker");
            check("marker", body());
        }

        /** An orderly end: the receipt, and then the end of the stream. */
        @Override
        public void close() throws Exception {
            connection.disconnect("goodbye");
            await("goodbye");
            try {
                throw new AssertionError("after DISCONNECT: " + connection.receive(WAIT_MS_MAX));
            } catch (EOFException end) {
                connection.close();
            }
        }
    }

    private static void aWrongPasscodeIsRefused(String version) throws Exception {
        try {
            new Session(version, "guess", "0,0");
        } catch (Exception refused) {
            check("Not connected: not-authenticated\n", refused.getMessage());
            return;
        }
        throw new AssertionError("a wrong passcode is taken");
    }

    private static void aTopicReachesTheSenderAndOthers(String version) throws Exception {
        String room = unique("/topic/room");
        try (Session sender = new Session(version); Session other = new Session(version)) {
            sender.subscribe("1", room, "auto");
            other.subscribe("1", room, "auto");
            sender.connection.send(room, "wörld 😀", null, new HashMap<>(Map.of("kind", "greeting")));
            for (Session session : new Session[] {sender, other}) {
                StompFrame message = session.message();
                check("wörld 😀", message.getBody());
                check("greeting", message.getHeaders().get("kind"));
                check("relay", message.getHeaders().get("sender"));
                check(room, message.getHeaders().get("destination"));
            }
            String large = "0123456789abcdef".repeat(40_000);
            other.send(room, large);
            check(large, sender.body());
            check(large, other.body());
        }
    }

    private static void whatIsNotAcknowledgedComesAgain(String version) throws Exception {
        String work = unique("/queue/work");
        try (Session unlucky = new Session(version)) {
            unlucky.send(work, "first");
            unlucky.send(work, "second");
            unlucky.subscribe("1", work, "client-individual");
            check("first", unlucky.body());
            StompFrame second = unlucky.message();
            check("second", second.getBody());
            unlucky.ack(second, null);
        }
        try (Session next = new Session(version)) {
            next.subscribe("1", work, "client-individual");
            StompFrame first = next.message();
            check("first", first.getBody());
            check("true", first.getHeaders().get("redelivered"));
            next.ack(first, null);
        }
        try (Session last = new Session(version)) {
            last.subscribe("1", work, "auto");
            last.expectNothingMore();
        }
    }

    private static void aTransactionHappensWholeOrNotAtAll(String version) throws Exception {
        String room = unique("/topic/room");
        String work = unique("/queue/work");
        try (Session session = new Session(version); Session listener = new Session(version)) {
            StompConnection connection = session.connection;
            listener.subscribe("1", room, "auto");
            session.send(work, "job");
            session.subscribe("1", work, "client-individual");
            StompFrame job = session.message();

            connection.begin("aborted");
            connection.send(room, "never", "aborted", null);
            session.ack(job, "aborted");
            connection.abort("aborted");
            connection.begin("committed");
            connection.send(room, "one", "committed", null);
            connection.send(room, "two", "committed", null);
            connection.commit("committed");
            check("one", listener.body());
            check("two", listener.body());
            listener.expectNothingMore();
        }
        // The acknowledgement was aborted, too.
        try (Session session = new Session(version)) {
            session.subscribe("1", work, "client-individual");
            StompFrame job = session.message();
            check("job", job.getBody());
            session.connection.begin("done");
            session.ack(job, "done");
            session.connection.commit("done");
        }
        try (Session session = new Session(version)) {
            session.subscribe("1", work, "auto");
            session.expectNothingMore();
        }
    }

    private static void unsubscribedIsUnsubscribed(String version) throws Exception {
        String room = unique("/topic/room");
        try (Session session = new Session(version)) {
            session.subscribe("1", room, "auto");
            String receipt = session.nextReceipt();
            session.connection.unsubscribe(room, new HashMap<>(Map.of("id", "1", "receipt", receipt)));
            session.await(receipt);
            session.send(room, "to nobody");
            session.expectNothingMore();
        }
    }

    /** Beats of the client keep its session; without them the server ends it, and says why. */
    private static void heartBeatsKeepASession(String version) throws Exception {
        Session session = new Session(version, "secret", "1000,0");
        for (int beat = 0; beat < 10; beat += 1) {
            Thread.sleep(500);
            session.connection.keepAlive();
        }
        session.expectNothingMore();
        StompFrame error = session.connection.receive(WAIT_MS_MAX);
        check("ERROR", error.getAction());
        check("heart-beat-timeout\n", error.getBody());
        session.connection.close();
    }

    public static void main(String[] arguments) throws Exception {
        for (String version : new String[] {"1.0", "1.1", "1.2"}) {
            System.out.println(version);
            aWrongPasscodeIsRefused(version);
            aTopicReachesTheSenderAndOthers(version);
            whatIsNotAcknowledgedComesAgain(version);
            aTransactionHappensWholeOrNotAtAll(version);
            unsubscribedIsUnsubscribed(version);
        }
        heartBeatsKeepASession("1.2");
    }
}
