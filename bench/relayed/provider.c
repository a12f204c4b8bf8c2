/* The provider of the measurements: `provider TICK_US` listens on loopback and prints its port.
 *
 * POST: an answer of Anthropic's Messages API, always the same, but for ids and moments. `"stream":true` in the body
 * asks for events (each a chunk of its own), else it is JSON. `pace=20000` in the body: one event each 20,000 us, else
 * all of them in one write. The moments of events are rounded up to the next tick.
 * GET: what it has sent since it began.
 */
#define _GNU_SOURCE
#include "wire.h"

#define DELTAS 60
#define EVENTS (DELTAS + 6)
#define MOST_CONNECTIONS 16384
#define ID_DIGITS 16

typedef struct {
    int fd, event; /* the next event of the answer that is under way; -1: none is */
    uint64_t due, pace;
    Buffer in, out;
} Connection;

typedef struct {
    char text[16384];
    size_t length, id, begin[EVENTS + 1]; /* where the id stands, and each event with its chunk's frame */
    size_t moment[EVENTS];                /* where the moment stands; 0: nowhere */
} Answer;

static Answer streamed, whole;
static size_t body_bytes_of_stream, body_bytes_of_json;
static Connection connections[MOST_CONNECTIONS];
static int waiting[MOST_CONNECTIONS], waiting_count; /* a heap of descriptors, the one that is due first in front */
static uint64_t tick_ns;
static struct {
    uint64_t connections, streams, jsons, finished, events, broken;
} sent;

static void add_event(Answer *answer, int number, const char *name, const char *data)
{
    char event[2048];
    int length = snprintf(event, sizeof event, "event: %s\ndata: %s\n\n", name, data);
    answer->begin[number] = answer->length;
    int at = sprintf(answer->text + answer->length, "%x\r\n", length);
    memcpy(answer->text + answer->length + at, event, (size_t)length);
    char *mark = memchr(answer->text + answer->length + at, MARK, (size_t)length);
    answer->moment[number] = mark ? (size_t)(mark - answer->text) + 1 + NUMBER_DIGITS : 0;
    answer->length += (size_t)(at + length);
    memcpy(answer->text + answer->length, "\r\n", 2);
    answer->length += 2;
    body_bytes_of_stream += (size_t)length;
}

static void write_answers(void)
{
    Answer *answer = &streamed;
    answer->length = (size_t)sprintf(answer->text,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
        "request-id: req_0000000000000000\r\nTransfer-Encoding: chunked\r\n\r\n");
    answer->id = (size_t)(strstr(answer->text, "req_") + 4 - answer->text);
    add_event(answer, 0, "message_start",
        "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_01XFDUDYJgAACzvnptvVoYEL\",\"type\":\"message\",\"role\":\"assistant\","
        "\"model\":\"claude-opus-4-5-20251101\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{"
        "\"input_tokens\":1200,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":3000,\"cache_creation\":{"
        "\"ephemeral_5m_input_tokens\":0,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":1,\"service_tier\":\"standard\"}}}");
    add_event(answer, 1, "content_block_start",
        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}");
    add_event(answer, 2, "ping", "{\"type\": \"ping\"}");
    for (int delta = 0; delta < DELTAS; delta++) {
        char data[256];
        sprintf(data, "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%c%02x%012x \"}}", MARK,
            delta, 0);
        add_event(answer, 3 + delta, "content_block_delta", data);
    }
    add_event(answer, EVENTS - 3, "content_block_stop", "{\"type\":\"content_block_stop\",\"index\":0}");
    add_event(answer, EVENTS - 2, "message_delta",
        "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"input_tokens\":1200,"
        "\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":3000,\"output_tokens\":120}}");
    add_event(answer, EVENTS - 1, "message_stop", "{\"type\":\"message_stop\"}");
    memcpy(answer->text + answer->length, "0\r\n\r\n", 5);
    answer->length += 5;
    answer->begin[EVENTS] = answer->length;

    char body[2048], words[1024] = "";
    while (strlen(words) < 560)
        strcat(words, "A sentence of an answer, of no great length. ");
    int length = sprintf(body,
        "{\"id\":\"msg_01XFDUDYJgAACzvnptvVoYEL\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-4-5-20251101\","
        "\"content\":[{\"type\":\"text\",\"text\":\"%s\"}],\"stop_reason\":\"end_turn\",\"stop_sequence\":null,\"usage\":{"
        "\"input_tokens\":1200,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":3000,\"cache_creation\":{"
        "\"ephemeral_5m_input_tokens\":0,\"ephemeral_1h_input_tokens\":0},\"output_tokens\":120,\"service_tier\":\"standard\"}}",
        words);
    body_bytes_of_json = (size_t)length;
    whole.length = (size_t)sprintf(whole.text,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nrequest-id: req_0000000000000000\r\nContent-Length: %d\r\n\r\n%s",
        length, body);
    whole.id = (size_t)(strstr(whole.text, "req_") + 4 - whole.text);
}

/* The heap of those that wait for their next event. */
static int earlier(int one, int other)
{
    return connections[waiting[one]].due < connections[waiting[other]].due;
}

static void swap(int one, int other)
{
    int fd = waiting[one];
    waiting[one] = waiting[other];
    waiting[other] = fd;
}

static void sink(int place)
{
    for (int child; (child = 2 * place + 1) < waiting_count; place = child) {
        if (child + 1 < waiting_count && earlier(child + 1, child))
            child++;
        if (!earlier(child, place))
            return;
        swap(child, place);
    }
}

static void wait_turn(int fd)
{
    int place = waiting_count++;
    waiting[place] = fd;
    for (; place && earlier(place, (place - 1) / 2); place = (place - 1) / 2)
        swap(place, (place - 1) / 2);
}

static void wait_no_more(int fd)
{
    for (int place = 0; place < waiting_count; place++)
        if (waiting[place] == fd) {
            waiting[place] = waiting[--waiting_count];
            for (int root = waiting_count / 2; root >= 0; root--)
                sink(root);
            return;
        }
}

static void close_connection(Connection *connection)
{
    if (connection->event >= 0) {
        sent.broken++;
        wait_no_more(connection->fd);
    }
    close(connection->fd);
    connection->event = -1;
    connection->in.length = connection->out.length = 0;
}

/* Sends it, or keeps what the socket does not take. 0: the client is gone. */
static int send_or_keep(int epoll, Connection *connection, const char *bytes, size_t length)
{
    if (!connection->out.length) {
        ssize_t count = write(connection->fd, bytes, length);
        if (count < 0 && errno != EAGAIN)
            return 0;
        if (count == (ssize_t)length)
            return 1;
        size_t taken = count < 0 ? 0 : (size_t)count;
        bytes += taken, length -= taken;
        watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLIN | EPOLLOUT, (uint64_t)connection->fd);
    }
    append(&connection->out, bytes, length);
    return 1;
}

static uint64_t up_to_tick(uint64_t moment)
{
    return tick_ns ? (moment + tick_ns - 1) / tick_ns * tick_ns : moment;
}

static void sign(Answer *answer)
{
    write_hex(answer->text + answer->id, ID_DIGITS, sent.streams + sent.jsons);
}

static int send_events(int epoll, Connection *connection, int first, int end)
{
    if (streamed.moment[first]) /* events that are sent together need no moments */
        write_hex(streamed.text + streamed.moment[first], MOMENT_DIGITS, now_ns());
    size_t begin = first ? streamed.begin[first] : 0;
    sent.events += (uint64_t)(end - first);
    return send_or_keep(epoll, connection, streamed.text + begin, streamed.begin[end] - begin);
}

static int begin_stream(int epoll, Connection *connection, uint64_t pace_us)
{
    sent.streams++;
    sign(&streamed);
    if (!pace_us) {
        sent.finished++;
        return send_events(epoll, connection, 0, EVENTS);
    }
    connection->pace = pace_us * 1000;
    connection->due = up_to_tick(now_ns() + connection->pace);
    connection->event = 1;
    wait_turn(connection->fd);
    return send_events(epoll, connection, 0, 1);
}

static void send_what_is_due(int epoll)
{
    uint64_t now = now_ns();
    while (waiting_count && connections[waiting[0]].due <= now) {
        Connection *connection = &connections[waiting[0]];
        int event = connection->event++;
        if (event == EVENTS - 1) {
            sent.finished++;
            connection->event = -1;
            waiting[0] = waiting[--waiting_count];
        } else {
            connection->due = up_to_tick(connection->due + connection->pace);
        }
        sink(0);
        if (!send_events(epoll, connection, event, event + 1))
            close_connection(connection);
    }
}

static int answer_json(int epoll, Connection *connection)
{
    sent.jsons++;
    sent.finished++;
    sign(&whole);
    return send_or_keep(epoll, connection, whole.text, whole.length);
}

static int answer_counts(int epoll, Connection *connection)
{
    char body[512], text[1024];
    int length = sprintf(body,
        "{\"connections\":%lu,\"streams\":%lu,\"jsons\":%lu,\"finished\":%lu,\"events\":%lu,\"broken\":%lu,\"events_of_stream\":%d,"
        "\"body_bytes_of_stream\":%zu,\"body_bytes_of_json\":%zu}",
        sent.connections, sent.streams, sent.jsons, sent.finished, sent.events, sent.broken, EVENTS, body_bytes_of_stream,
        body_bytes_of_json);
    length = sprintf(text, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body);
    return send_or_keep(epoll, connection, text, (size_t)length);
}

/* The end of a chunked body that begins at `at`; NULL: it has not arrived. */
static const char *end_of_chunks(const char *at, const char *end)
{
    for (;;) {
        char *after;
        const char *line = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line)
            return NULL;
        size_t size = strtoul(at, &after, 16);
        if (line + 2 + size + 2 > end)
            return NULL;
        at = line + 2 + size + 2;
        if (!size)
            return at;
    }
}

/* Where the request that begins the buffer ends; 0: not all of it has arrived. */
static size_t request_length(const Buffer *in, size_t *head_length)
{
    const char *end = in->at + in->length, *blank = memmem(in->at, in->length, "\r\n\r\n", 4);
    if (!blank)
        return 0;
    const char *body = blank + 4, *value = header(in->at, body, "content-length");
    *head_length = (size_t)(body - in->at);
    if (value) {
        size_t length = *head_length + strtoul(value, NULL, 10);
        return length <= in->length ? length : 0;
    }
    if (header(in->at, body, "transfer-encoding")) {
        const char *after = end_of_chunks(body, end);
        return after ? (size_t)(after - in->at) : 0;
    }
    return *head_length;
}

static int asks_for_stream(const char *body, size_t length)
{
    const char *at = memmem(body, length, "\"stream\"", 8), *end = body + length;
    if (!at)
        return 0;
    for (at += 8; at < end && (*at == ' ' || *at == ':'); at++)
        ;
    return end - at >= 4 && !memcmp(at, "true", 4);
}

static uint64_t asked_pace(const char *body, size_t length)
{
    const char *at = memmem(body, length, "pace=", 5);
    return at ? strtoul(at + 5, NULL, 10) : 0;
}

/* Answers the request that has arrived. 0: the client is gone. */
static int answer(int epoll, Connection *connection)
{
    Buffer *in = &connection->in;
    size_t head_length, length;
    while (connection->event < 0 && (length = request_length(in, &head_length))) {
        const char *body = in->at + head_length;
        size_t body_length = length - head_length;
        int alive = in->at[0] == 'G'                      ? answer_counts(epoll, connection)
                    : asks_for_stream(body, body_length) ? begin_stream(epoll, connection, asked_pace(body, body_length))
                                                          : answer_json(epoll, connection);
        if (!alive)
            return 0;
        drop_front(in, length);
    }
    return 1;
}

static int read_requests(int epoll, Connection *connection)
{
    for (;;) {
        make_room(&connection->in, 16384);
        size_t room = connection->in.room - connection->in.length;
        ssize_t count = read(connection->fd, connection->in.at + connection->in.length, room);
        if (count == 0 || (count < 0 && errno != EAGAIN))
            return 0;
        if (count < 0)
            return 1;
        connection->in.length += (size_t)count;
        if (!answer(epoll, connection))
            return 0;
        if ((size_t)count < room)
            return 1;
    }
}

static int write_rest(int epoll, Connection *connection)
{
    ssize_t count = write(connection->fd, connection->out.at, connection->out.length);
    if (count < 0)
        return errno == EAGAIN;
    drop_front(&connection->out, (size_t)count);
    if (!connection->out.length)
        watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLIN, (uint64_t)connection->fd);
    return 1;
}

static void accept_all(int epoll, int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= MOST_CONNECTIONS) {
            close(fd);
            continue;
        }
        send_at_once(fd);
        connections[fd].fd = fd;
        connections[fd].event = -1;
        sent.connections++;
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, (uint64_t)fd);
    }
}

int main(int count, char **arguments)
{
    signal(SIGPIPE, SIG_IGN);
    tick_ns = count > 1 ? strtoul(arguments[1], NULL, 10) * 1000 : 0;
    write_answers();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096))
        fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, (uint64_t)listener);
    for (;;) {
        struct epoll_event events[512];
        int ready = wait_until(epoll, events, 512, waiting_count ? connections[waiting[0]].due : 0);
        for (int each = 0; each < ready; each++) {
            int fd = (int)events[each].data.u64;
            if (fd == listener) {
                accept_all(epoll, listener);
                continue;
            }
            Connection *connection = &connections[fd];
            int alive = 1;
            if (events[each].events & EPOLLOUT)
                alive = write_rest(epoll, connection);
            if (alive && events[each].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                alive = read_requests(epoll, connection);
            if (!alive)
                close_connection(connection);
        }
        send_what_is_due(epoll);
    }
}
