import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * A chat in a terminal, with Java's own WebSocket client: it says each line of its standard input in a room, and shows
 * what others say. It needs Java 17 and nothing else:
 *
 * <pre>LOGIN=alice PASSCODE=wonderland java Chat.java tea</pre>
 *
 * <p>CHAT is the server's URL. A token goes into PASSCODE, without a LOGIN. The exit code is 1 when the server refuses.
 *
 * <p>The main thread does all the work. What other threads hear comes to it as {@link Event}s.
 */
public final class Chat {
    /** For an opening handshake, for CONNECTED, and for a message to leave. */
    private static final long ANSWER_MS_MAX = 10_000;
    private static final long RETRY_MS_MAX = 30_000;
    /** After these ERRORs a new connection would be refused in the same way. Their bodies are a line with the name. */
    private static final Set<String> FINAL = Set.of(
            "not-authenticated", "expired", "banned", "kicked", "forbidden", "bad-destination", "body-too-long");
    /** Independent of the locale. */
    private static final PrintStream OUT = utf8(FileDescriptor.out);
    private static final PrintStream LOG = utf8(FileDescriptor.err);

    /** What other threads hear. A connection names itself, because one that was given up may still say something. */
    private sealed interface Event {
        record Line(String text) implements Event {}

        record EndOfLines() implements Event {}

        record Received(WebSocket socket, byte[] bytes) implements Event {}

        record Lost(WebSocket socket, String why) implements Event {}
    }

    /** The server has refused what a new connection would only repeat. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
    }

    private final BlockingQueue<Event> events = new LinkedBlockingQueue<>();
    private final HttpClient http = HttpClient.newHttpClient();
    private final URI url = URI.create(System.getenv().getOrDefault("CHAT", "ws://127.0.0.1:8080/ws"));
    private final long heartBeatMs = Long.parseLong(System.getenv().getOrDefault("HEART_BEAT_MS", "10000"));
    private final String room;
    private final String destination;

    /**
     * Lines that the server has not confirmed, by their receipts. After a lost connection they are said again. A line
     * whose receipt was lost comes twice, but no line is lost.
     */
    private final Map<String, String> unconfirmed = new LinkedHashMap<>();
    private int lines;
    private boolean isAtEnd;
    private boolean hasBeenIn;

    /** The connection, or null: then the next one is due at `retryAt`. */
    private WebSocket socket;
    private Decoder decoder;
    private boolean isConnected;
    private boolean hasLeft;
    private int failures;
    private long retryAt = now();
    /** How often this side says something, at least. 0 if it need not. */
    private long sayEveryMs;
    private long saidAt;
    /** Silence after which the server is taken for gone. 0 if it has promised nothing. */
    private long silenceMsMax;
    private volatile long heardAt;

    private Chat(String room) {
        this.room = room;
        this.destination = "/topic/" + room;
    }

    public static void main(String[] arguments) throws InterruptedException {
        if (arguments.length != 1) {
            LOG.println("usage: java Chat.java ROOM");
            System.exit(2);
        }
        int code = 0;
        try {
            new Chat(arguments[0]).run();
        } catch (Refused refused) {
            code = 1;
        }
        // Nothing ends a read of standard input.
        System.exit(code);
    }

    private void run() throws InterruptedException, Refused {
        Thread reader = new Thread(this::readLines);
        reader.setDaemon(true);
        reader.start();
        while (!(isAtEnd && hasBeenIn && unconfirmed.isEmpty())) {
            turn();
        }
        if (isConnected) {
            send("DISCONNECT", Map.of("receipt", "goodbye"), "");
            long deadline = now() + ANSWER_MS_MAX;
            while (socket != null && !hasLeft && now() < deadline) {
                turn();
            }
        }
    }

    private void turn() throws InterruptedException, Refused {
        if (socket == null && now() >= retryAt) {
            connect();
        }
        Event event = events.poll(Math.max(0, nextTimer() - now()), TimeUnit.MILLISECONDS);
        if (event instanceof Event.Line line) {
            lines += 1;
            unconfirmed.put("line-" + lines, line.text);
            if (isConnected) {
                say("line-" + lines, line.text);
            }
        } else if (event instanceof Event.EndOfLines) {
            isAtEnd = true;
        } else if (event instanceof Event.Received received && received.socket == socket) {
            receive(received.bytes);
        } else if (event instanceof Event.Lost lost && lost.socket == socket) {
            lose(lost.why);
        }
        if (socket != null && silenceMsMax > 0 && now() - heardAt >= silenceMsMax) {
            lose("nothing was heard for " + silenceMsMax + " ms");
        }
        if (socket != null && sayEveryMs > 0 && now() - saidAt >= sayEveryMs) {
            send("\n");
        }
    }

    private long nextTimer() {
        if (socket == null) {
            return retryAt;
        }
        long say = sayEveryMs > 0 ? saidAt + sayEveryMs : Long.MAX_VALUE;
        long silence = silenceMsMax > 0 ? heardAt + silenceMsMax : Long.MAX_VALUE;
        return Math.min(say, silence);
    }

    private void connect() throws InterruptedException, Refused {
        decoder = new Decoder();
        sayEveryMs = 0;
        silenceMsMax = ANSWER_MS_MAX;
        heardAt = now();
        try {
            CompletableFuture<WebSocket> opening = http.newWebSocketBuilder()
                    .subprotocols("v12.stomp")
                    .connectTimeout(Duration.ofMillis(ANSWER_MS_MAX))
                    .buildAsync(url, new Listener());
            socket = opening.get(ANSWER_MS_MAX, TimeUnit.MILLISECONDS);
        } catch (ExecutionException failure) {
            if (failure.getCause() instanceof WebSocketHandshakeException answer) {
                int status = answer.getResponse().statusCode();
                LOG.println("the server refuses: HTTP status " + status);
                // Too early, too many, or too busy: these pass.
                if (status < 500 && status != 408 && status != 429) {
                    throw new Refused();
                }
            }
            lose("no connection: " + failure.getCause().getMessage());
            return;
        } catch (TimeoutException timeout) {
            lose("no connection: the server does not answer");
            return;
        }
        Map<String, String> headers = new LinkedHashMap<>();
        headers.put("accept-version", "1.2");
        headers.put("host", url.getHost());
        headers.put("heart-beat", heartBeatMs + "," + heartBeatMs);
        for (String name : new String[] {"login", "passcode"}) {
            String value = System.getenv(name.toUpperCase(Locale.ROOT));
            if (value != null) {
                headers.put(name, value);
            }
        }
        send("CONNECT", headers, "");
    }

    /** Gives a connection up, and says when the next one is due. */
    private void lose(String why) {
        if (socket != null) {
            socket.abort();
            socket = null;
        }
        isConnected = false;
        // Longer with each failure, and by chance, so that a server that comes back is not flooded.
        long longest = Math.min(RETRY_MS_MAX, 1000L << Math.min(failures, 10));
        long pause = ThreadLocalRandom.current().nextLong(longest / 2, longest);
        failures += 1;
        retryAt = now() + pause;
        LOG.println(why + "; trying again in " + pause + " ms");
    }

    private void receive(byte[] bytes) throws InterruptedException, Refused {
        decoder.add(bytes);
        try {
            for (Frame frame = decoder.next(); frame != null; frame = decoder.next()) {
                handle(frame);
            }
        } catch (IOException | NumberFormatException broken) {
            lose("the server does not speak STOMP: " + broken.getMessage());
        }
    }

    private void handle(Frame frame) throws InterruptedException, Refused, IOException {
        switch (frame.command) {
            case "CONNECTED" -> {
                isConnected = true;
                failures = 0;
                // The server says how often it can beat, and how often it wants to hear.
                String[] theirs = frame.headers.getOrDefault("heart-beat", "0,0").split(",");
                long sends = Long.parseLong(theirs[0]);
                long wants = Long.parseLong(theirs[1]);
                silenceMsMax = sends == 0 || heartBeatMs == 0 ? 0 : 2 * Math.max(sends, heartBeatMs);
                sayEveryMs = wants == 0 || heartBeatMs == 0 ? 0 : Math.max(wants, heartBeatMs);
                send("SUBSCRIBE", Map.of("id", "room", "destination", destination, "receipt", "subscribed"), "");
                for (Map.Entry<String, String> line : unconfirmed.entrySet()) {
                    say(line.getKey(), line.getValue());
                }
            }
            case "MESSAGE" -> {
                // A server with `stomp.refusals = "message"` refuses in this way, and keeps the session.
                if (frame.headers.get("destination").equals("/user/queue/errors")) {
                    refused(frame);
                    return;
                }
                String text = frame.headers.getOrDefault("sender", "somebody") + ": " + frame.body;
                // What others have written must not control this terminal.
                OUT.println(text.replaceAll("[\\x00-\\x1f\\x7f-\\x9f]", "\ufffd"));
            }
            case "RECEIPT" -> {
                String receipt = frame.headers.get("receipt-id");
                unconfirmed.remove(receipt);
                if (receipt.equals("subscribed")) {
                    hasBeenIn = true;
                    LOG.println("in " + room);
                } else if (receipt.equals("goodbye")) {
                    hasLeft = true;
                }
            }
            case "ERROR" -> {
                refused(frame);
                if (FINAL.contains(frame.body.strip())) {
                    throw new Refused();
                }
            }
            default -> throw new IOException("unknown command " + frame.command);
        }
    }

    private void refused(Frame frame) {
        LOG.println("the server refuses: " + frame.headers.get("message"));
        unconfirmed.remove(frame.headers.get("receipt-id"));
    }

    private void say(String receipt, String text) throws InterruptedException {
        send("SEND", Map.of("destination", destination, "receipt", receipt), text);
    }

    private void send(String command, Map<String, String> headers, String body) throws InterruptedException {
        send(encode(command, headers, body));
    }

    /** Sends a message, and waits until it is sent: a WebSocket takes one at a time. */
    private void send(String message) throws InterruptedException {
        if (socket == null) {
            return;
        }
        try {
            socket.sendText(message, true).get(ANSWER_MS_MAX, TimeUnit.MILLISECONDS);
            saidAt = now();
        } catch (ExecutionException failure) {
            lose("the connection is lost: " + failure.getCause().getMessage());
        } catch (TimeoutException timeout) {
            lose("the server does not read");
        }
    }

    private void readLines() {
        try (BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = input.readLine(); line != null; line = input.readLine()) {
                events.add(new Event.Line(line));
            }
        } catch (IOException broken) {
            LOG.println("standard input: " + broken.getMessage());
        }
        events.add(new Event.EndOfLines());
    }

    /** Puts the parts of a message together. One that is longer than a buffer of the JDK comes in several. */
    private final class Listener implements WebSocket.Listener {
        private final StringBuilder text = new StringBuilder();
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
            text.append(part);
            if (last) {
                deliver(socket, text.toString().getBytes(StandardCharsets.UTF_8));
                text.setLength(0);
            }
            return heard(socket);
        }

        /** A frame whose body is not UTF-8 comes in a binary message. */
        @Override
        public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
            byte[] copy = new byte[part.remaining()];
            part.get(copy);
            bytes.writeBytes(copy);
            if (last) {
                deliver(socket, bytes.toByteArray());
                bytes.reset();
            }
            return heard(socket);
        }

        private void deliver(WebSocket socket, byte[] message) {
            events.add(new Event.Received(socket, message));
        }

        private CompletionStage<?> heard(WebSocket socket) {
            heardAt = now();
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            events.add(new Event.Lost(socket, "the server has closed: " + code + " " + reason));
            return null;
        }

        @Override
        public void onError(WebSocket socket, Throwable error) {
            events.add(new Event.Lost(socket, "the connection is lost: " + error.getMessage()));
        }
    }

    /** A frame of the server. */
    private record Frame(String command, Map<String, String> headers, String body) {}

    /** A frame on the wire. STOMP 1.2, "Value Encoding": CONNECT has no escapes. */
    private static String encode(String command, Map<String, String> headers, String body) {
        StringBuilder frame = new StringBuilder(command).append('\n');
        headers.forEach((name, value) -> {
            if (!command.equals("CONNECT")) {
                value = value.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n").replace(":", "\\c");
            } else if (value.matches("(?s).*[\r\n\0].*")) {
                throw new IllegalArgumentException(name + " has a character that CONNECT cannot carry");
            }
            frame.append(name).append(':').append(value).append('\n');
        });
        if (!body.isEmpty()) {
            frame.append("content-length:").append(body.getBytes(StandardCharsets.UTF_8).length).append('\n');
        }
        return frame.append('\n').append(body).append('\0').toString();
    }

    /** Frames out of bytes, however they are cut. */
    private static final class Decoder {
        private byte[] bytes = new byte[0];
        private int at;

        void add(byte[] more) {
            byte[] both = Arrays.copyOfRange(bytes, at, bytes.length + more.length);
            System.arraycopy(more, 0, both, bytes.length - at, more.length);
            bytes = both;
            at = 0;
        }

        /** The next frame, or null if it is not complete. */
        Frame next() throws IOException {
            // Ends of lines between frames are heart-beats.
            while (at < bytes.length && (bytes[at] == '\n' || bytes[at] == '\r')) {
                at += 1;
            }
            int start = at;
            Frame frame = read();
            if (frame == null) {
                at = start;
            }
            return frame;
        }

        private Frame read() throws IOException {
            String command = line();
            if (command == null) {
                return null;
            }
            Map<String, String> headers = new LinkedHashMap<>();
            for (String line = line(); ; line = line()) {
                if (line == null) {
                    return null;
                }
                if (line.isEmpty()) {
                    break;
                }
                int colon = line.indexOf(':');
                if (colon < 0) {
                    throw new IOException("a header without a colon");
                }
                boolean isEscaped = !command.equals("CONNECTED");
                String name = line.substring(0, colon);
                String value = line.substring(colon + 1);
                // Of repeated headers the first counts.
                headers.putIfAbsent(isEscaped ? unescape(name) : name, isEscaped ? unescape(value) : value);
            }
            int length;
            if (headers.containsKey("content-length")) {
                length = Integer.parseInt(headers.get("content-length"));
            } else {
                length = 0;
                while (at + length < bytes.length && bytes[at + length] != 0) {
                    length += 1;
                }
            }
            if (at + length >= bytes.length) {
                return null;
            }
            if (bytes[at + length] != 0) {
                throw new IOException("no NUL behind a body");
            }
            String body = new String(bytes, at, length, StandardCharsets.UTF_8);
            at += length + 1;
            return new Frame(command, headers, body);
        }

        /** The line that begins here, or null if it has no end. */
        private String line() {
            for (int end = at; end < bytes.length; end += 1) {
                if (bytes[end] == '\n') {
                    int length = end - at - (end > at && bytes[end - 1] == '\r' ? 1 : 0);
                    String line = new String(bytes, at, length, StandardCharsets.UTF_8);
                    at = end + 1;
                    return line;
                }
            }
            return null;
        }

        private static String unescape(String text) throws IOException {
            StringBuilder plain = new StringBuilder();
            for (int i = 0; i < text.length(); i += 1) {
                char c = text.charAt(i);
                if (c == '\\') {
                    i += 1;
                    int which = i < text.length() ? "\\rnc".indexOf(text.charAt(i)) : -1;
                    if (which < 0) {
                        throw new IOException("an undefined escape");
                    }
                    c = "\\\r\n:".charAt(which);
                }
                plain.append(c);
            }
            return plain.toString();
        }
    }

    private static long now() {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime());
    }

    private static PrintStream utf8(FileDescriptor descriptor) {
        return new PrintStream(new FileOutputStream(descriptor), true, StandardCharsets.UTF_8);
    }
}
