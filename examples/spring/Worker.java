import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * What a {@code @MessageMapping} controller did, as a program of its own. It speaks STOMP over plain TCP, and needs Java
 * 17 and nothing else:
 *
 * <pre>LOGIN=worker PASSCODE=secret java Worker.java</pre>
 *
 * <p>CHAT is the server's address for STOMP (listen.stomp). The login needs the role `service`. The exit code is 1 when
 * the server refuses. Start it several times, and the messages are shared out.
 */
public final class Worker {
    /** A message that the controller sends. */
    private record Answer(String destination, String body) {}

    /**
     * The controller. In Spring it was:
     *
     * <pre>{@code
     * @MessageMapping("/chat")
     * void chat(@Payload String text, @Header String room, Principal user) {
     *     if (text.isBlank()) throw new IllegalArgumentException("there is nothing to say");
     *     template.convertAndSend("/topic/" + room, user.getName() + ": " + text);
     *     template.convertAndSendToUser(user.getName(), "/queue/replies", "said in " + room);
     * }
     *
     * @MessageExceptionHandler
     * @SendToUser("/queue/errors")
     * String refused(IllegalArgumentException exception) { return exception.getMessage(); }
     * }</pre>
     */
    private static List<Answer> chat(String text, Map<String, String> headers, String user) {
        try {
            String room = headers.getOrDefault("room", "");
            // It comes from the client, and the worker may send anywhere.
            if (!room.matches("[\\p{L}\\p{N}_-]{1,48}")) {
                throw new IllegalArgumentException("there is no such room");
            }
            if (text.isBlank()) {
                throw new IllegalArgumentException("there is nothing to say");
            }
            return List.of(
                    new Answer("/topic/" + room, user + ": " + text), toUser(user, "replies", "said in " + room));
        } catch (IllegalArgumentException refused) {
            return List.of(toUser(user, "errors", refused.getMessage()));
        }
    }

    /** What {@code convertAndSendToUser} did. In a destination, these two characters of a login are escaped. */
    private static Answer toUser(String user, String queue, String body) {
        String login = user.replace("%", "%25").replace("/", "%2F");
        return new Answer("/user/" + login + "/queue/" + queue, body);
    }

    private static final int HEART_BEAT_MS =
            Integer.parseInt(System.getenv().getOrDefault("HEART_BEAT_MS", "10000"));
    /** Two beats that are missing are the network's or the server's end. */
    private static final int SILENCE_MS_MAX = 2 * HEART_BEAT_MS;
    /** How often timers are looked at. */
    private static final int TICK_MS = HEART_BEAT_MS / 10;
    private static final long RETRY_MS_MAX = 30_000;
    /** After these ERRORs a new connection would be refused in the same way. Their bodies are a line with the name. */
    private static final Set<String> FINAL =
            Set.of("not-authenticated", "expired", "banned", "kicked", "forbidden", "bad-destination");
    /** Independent of the locale. */
    private static final PrintStream LOG =
            new PrintStream(new FileOutputStream(FileDescriptor.err), true, StandardCharsets.UTF_8);

    /** The server has refused what a new connection would only repeat. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1;
    }

    private final Decoder decoder = new Decoder();
    private final OutputStream output;
    private boolean isConnected;
    private long transactions;
    private long saidAt = now();

    private Worker(OutputStream output) {
        this.output = output;
    }

    public static void main(String[] arguments) throws InterruptedException {
        URI url = URI.create(System.getenv().getOrDefault("CHAT", "stomp://127.0.0.1:61613"));
        int failures = 0;
        while (true) {
            try (Socket socket = new Socket()) {
                socket.connect(new InetSocketAddress(url.getHost(), url.getPort()), SILENCE_MS_MAX);
                socket.setTcpNoDelay(true);
                socket.setSoTimeout(TICK_MS);
                Worker worker = new Worker(socket.getOutputStream());
                try {
                    worker.run(socket, url.getHost());
                } finally {
                    failures = worker.isConnected ? 0 : failures;
                }
            } catch (IOException lost) {
                // Longer with each failure, and by chance, so that a server that comes back is not flooded.
                long longest = Math.min(RETRY_MS_MAX, 1000L << Math.min(failures, 10));
                long pause = ThreadLocalRandom.current().nextLong(longest / 2, longest);
                failures += 1;
                LOG.println("no connection: " + lost.getMessage() + "; trying again in " + pause + " ms");
                Thread.sleep(pause);
            } catch (Refused refused) {
                System.exit(1);
            }
        }
    }

    /** One connection, until it is lost. */
    private void run(Socket socket, String host) throws IOException, Refused {
        Map<String, String> connect = new LinkedHashMap<>();
        connect.put("accept-version", "1.2");
        connect.put("host", host);
        connect.put("heart-beat", HEART_BEAT_MS + "," + HEART_BEAT_MS);
        for (String name : List.of("login", "passcode")) {
            String value = System.getenv(name.toUpperCase(Locale.ROOT));
            if (value != null) {
                connect.put(name, value);
            }
        }
        send("CONNECT", connect, "");
        byte[] buffer = new byte[16 * 1024];
        long heardAt = now();
        while (now() - heardAt < SILENCE_MS_MAX) {
            try {
                int length = socket.getInputStream().read(buffer);
                if (length < 0) {
                    throw new IOException("the server has ended it");
                }
                heardAt = now();
                decoder.add(Arrays.copyOf(buffer, length));
                for (Frame frame = decoder.next(); frame != null; frame = decoder.next()) {
                    handle(frame);
                }
            } catch (SocketTimeoutException nothingYet) {
                // The timers are looked at.
            } catch (NumberFormatException broken) {
                throw new IOException("a number is expected: " + broken.getMessage());
            }
            if (now() - saidAt > HEART_BEAT_MS - 2 * TICK_MS) {
                write("\n");
            }
        }
        throw new IOException("nothing was heard for " + SILENCE_MS_MAX + " ms");
    }

    private void handle(Frame frame) throws IOException, Refused {
        switch (frame.command) {
            case "CONNECTED" -> {
                isConnected = true;
                send("SUBSCRIBE", Map.of(
                        "id", "chat", "destination", "/app/chat", "ack", "client-individual", "receipt", "ready"), "");
            }
            case "RECEIPT" -> LOG.println("ready");
            case "MESSAGE" -> {
                if (frame.headers.get("destination").equals("/user/queue/errors")) {
                    refuse(frame);
                }
                String user = frame.headers.get("sender");
                if (user == null) {
                    LOG.println("a message has no sender: set auth.mode");
                    throw new Refused();
                }
                // One transaction, so that the answers are sent and the question is done, or neither. A worker that dies
                // before leaves the question to the next one.
                transactions += 1;
                String transaction = "t" + transactions;
                send("BEGIN", Map.of("transaction", transaction), "");
                for (Answer answer : chat(frame.body, frame.headers, user)) {
                    send("SEND", Map.of("destination", answer.destination, "transaction", transaction), answer.body);
                }
                send("ACK", Map.of("id", frame.headers.get("ack"), "transaction", transaction), "");
                send("COMMIT", Map.of("transaction", transaction), "");
            }
            case "ERROR" -> refuse(frame);
            default -> throw new IOException("unknown command " + frame.command);
        }
    }

    /** Of an ERROR, and of the MESSAGE that it is with `stomp.refusals = "message"`. */
    private static void refuse(Frame frame) throws IOException, Refused {
        LOG.println("the server refuses: " + frame.headers.get("message"));
        if (FINAL.contains(frame.body.strip())) {
            throw new Refused();
        }
        throw new IOException("the server has refused something");
    }

    private void send(String command, Map<String, String> headers, String body) throws IOException {
        StringBuilder frame = new StringBuilder(command).append('\n');
        for (Map.Entry<String, String> header : headers.entrySet()) {
            String value = header.getValue();
            // STOMP 1.2, "Value Encoding": CONNECT has no escapes.
            if (!command.equals("CONNECT")) {
                value = value.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n").replace(":", "\\c");
            } else if (value.matches("(?s).*[\r\n\0].*")) {
                throw new IllegalArgumentException(header.getKey() + " has a character that CONNECT cannot carry");
            }
            frame.append(header.getKey()).append(':').append(value).append('\n');
        }
        if (!body.isEmpty()) {
            frame.append("content-length:").append(body.getBytes(StandardCharsets.UTF_8).length).append('\n');
        }
        write(frame.append('\n').append(body).append('\0').toString());
    }

    private void write(String text) throws IOException {
        output.write(text.getBytes(StandardCharsets.UTF_8));
        saidAt = now();
    }

    /** A frame of the server. */
    private record Frame(String command, Map<String, String> headers, String body) {}

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
}
