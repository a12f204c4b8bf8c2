/* The clients of the measurements: so many connections, each with one request after the other, until the time is up.
 *
 * Every answer is read to its end, and every event of it is counted; deltas must come in their order. What is counted
 * and timed between warm-up and end is printed as JSON, with the CPU time that the watched processes took meanwhile.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <getopt.h>

#define MOST_CONNECTIONS 8192
#define MOST_GROUPS 8
#define MOST_PIDS 64
#define MOST_KEYS 256
#define EVENTS 66

enum part { HEAD, FIXED, TO_THE_END, CHUNK_SIZE, CHUNK, AFTER_CHUNK, TRAILER };

typedef struct {
    int fd, number; /* fd -1: not connected */
    enum part part;
    uint64_t left; /* of the body, or of the chunk */
    Buffer head, line;
    uint64_t asked, first, last, last_sent, body_bytes;
    int events, next_delta, status, is_event, is_stopped, closes;
} Connection;

typedef struct {
    uint64_t *at;
    size_t length, room;
} Samples;

typedef struct {
    const char *name;
    int pids[MOST_PIDS], count;
    double before, after;
} Group;

static Connection connections[MOST_CONNECTIONS];
static Group groups[MOST_GROUPS];
static char *keys[MOST_KEYS], **requests;
static int port, connection_count = 1, is_json, key_count, group_count, epoll, busy;
static uint64_t pace_us, begin_at, end_at;
static Samples first_event, gap, delay, whole_answer;
static struct {
    uint64_t answers, events;
} measured;
static struct {
    uint64_t requests, answers, events, body_bytes, lost, disordered, broken, refused, wrong, connections;
} all;

static void take(Samples *samples, uint64_t value)
{
    if (samples->length == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 65536;
        samples->at = realloc(samples->at, samples->room * sizeof *samples->at);
        if (!samples->at)
            fail("memory");
    }
    samples->at[samples->length++] = value;
}

static int is_measured(uint64_t moment)
{
    return moment >= begin_at && moment < end_at;
}

static void ask(Connection *connection);

static void connect_anew(Connection *connection)
{
    struct sockaddr_in address = loopback(port);
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof address))
        fail("connect");
    send_at_once(connection->fd);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    watch(epoll, EPOLL_CTL_ADD, connection->fd, EPOLLIN, (uint64_t)connection->number);
    all.connections++;
}

static void disconnect(Connection *connection)
{
    close(connection->fd);
    connection->fd = -1;
}

static void ask(Connection *connection)
{
    if (connection->fd < 0)
        connect_anew(connection);
    const char *request = requests[connection->number % key_count];
    connection->asked = connection->last = now_ns();
    connection->first = connection->last_sent = connection->body_bytes = 0;
    connection->part = HEAD;
    connection->head.length = connection->line.length = 0;
    connection->events = connection->next_delta = connection->is_event = connection->is_stopped = connection->closes = 0;
    all.requests++;
    if (write(connection->fd, request, strlen(request)) != (ssize_t)strlen(request) && errno != EPIPE && errno != ECONNRESET)
        fail("write");
}

/* The answer is over, well or badly: the next one, if there is time. */
static void go_on(Connection *connection)
{
    if (connection->closes)
        disconnect(connection);
    if (now_ns() < end_at)
        ask(connection);
    else
        busy--;
}

static void break_off(Connection *connection)
{
    all.broken++;
    if (!is_json)
        all.lost += (uint64_t)(EVENTS - connection->events);
    connection->closes = 1;
    go_on(connection);
}

/* Only an answer that is one is counted and timed: a refusal is had sooner. */
static void finish(Connection *connection)
{
    uint64_t now = now_ns(), faults_before = all.wrong + all.refused;
    all.answers++;
    all.body_bytes += connection->body_bytes;
    if (connection->status != 200) {
        if (!all.refused++)
            fprintf(stderr, "status %d: %.*s\n", connection->status, (int)connection->line.length, connection->line.at);
    } else if (is_json) {
        if (connection->body_bytes < 100)
            all.wrong++;
    } else {
        if (connection->events < EVENTS)
            all.lost += (uint64_t)(EVENTS - connection->events);
        if (connection->events > EVENTS || !connection->is_stopped)
            all.wrong++;
    }
    if (is_measured(now) && all.wrong + all.refused == faults_before) {
        measured.answers++;
        take(&whole_answer, now - connection->asked);
        if (is_json)
            take(&first_event, connection->first - connection->asked);
    }
    go_on(connection);
}

static void take_event(Connection *connection, uint64_t now)
{
    connection->is_event = 0;
    connection->events++;
    all.events++;
    if (!is_measured(now))
        return;
    measured.events++;
    if (connection->events == 1)
        take(&first_event, now - connection->asked);
    else if (pace_us)
        take(&gap, now - connection->last);
}

static int is(const char *line, size_t length, const char *text)
{
    return length == strlen(text) && !memcmp(line, text, length);
}

static void take_line(Connection *connection, const char *line, size_t length, uint64_t now)
{
    if (length && line[length - 1] == '\r')
        length--;
    if (!length) {
        if (connection->is_event)
            take_event(connection, now);
        connection->last = now;
    } else if (length > 5 && !memcmp(line, "data:", 5)) {
        connection->is_event = 1;
        const char *mark = memchr(line, MARK, length);
        if (!mark || (size_t)(line + length - mark) < 1 + NUMBER_DIGITS + MOMENT_DIGITS)
            return;
        int number = (int)read_hex(mark + 1, NUMBER_DIGITS);
        if (number != connection->next_delta)
            all.disordered++;
        connection->next_delta = number + 1;
        if (pace_us && is_measured(now))
            take(&delay, (now - read_hex(mark + 1 + NUMBER_DIGITS, MOMENT_DIGITS)) & ((1ull << 4 * MOMENT_DIGITS) - 1));
    } else if (is(line, length, "event: message_stop")) {
        connection->is_stopped = 1;
    } else if (is(line, length, "event: error")) {
        all.wrong++;
    }
}

static void take_body(Connection *connection, const char *at, size_t length, uint64_t now)
{
    connection->body_bytes += length;
    if (is_json || connection->status != 200) {
        if (connection->status != 200)
            append(&connection->line, at, length);
        return;
    }
    for (const char *end = at + length; at < end;) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (!line_end) {
            append(&connection->line, at, (size_t)(end - at));
            return;
        }
        if (connection->line.length) {
            append(&connection->line, at, (size_t)(line_end - at));
            take_line(connection, connection->line.at, connection->line.length, now);
            connection->line.length = 0;
        } else {
            take_line(connection, at, (size_t)(line_end - at), now);
        }
        at = line_end + 1;
    }
}

/* Reads a line into the connection's head. 0: its end has not arrived. */
static int has_line(Connection *connection, const char **at, const char *end)
{
    const char *line_end = memchr(*at, '\n', (size_t)(end - *at)), *stop = line_end ? line_end + 1 : end;
    append(&connection->head, *at, (size_t)(stop - *at));
    *at = stop;
    return line_end != NULL;
}

/* Reads the head. 0: its end has not arrived. */
static int has_head(Connection *connection, const char **at, const char *end)
{
    Buffer *head = &connection->head;
    size_t before = head->length, begin = before > 3 ? before - 3 : 0;
    append(head, *at, (size_t)(end - *at));
    const char *blank = memmem(head->at + begin, head->length - begin, "\r\n\r\n", 4);
    if (!blank) {
        *at = end;
        return 0;
    }
    size_t length = (size_t)(blank + 4 - head->at);
    *at += length - before;
    head->length = length;
    append(head, "", 1); /* so that no number runs on into what was there before */
    const char *value, *head_end = head->at + length;
    connection->status = length > 12 ? atoi(head->at + 9) : 0;
    if ((value = header(head->at, head_end, "connection")) && !strncasecmp(value, "close", 5))
        connection->closes = 1;
    if (header(head->at, head_end, "transfer-encoding")) {
        connection->part = CHUNK_SIZE;
    } else if ((value = header(head->at, head_end, "content-length"))) {
        connection->part = FIXED;
        connection->left = strtoul(value, NULL, 10);
    } else {
        connection->part = TO_THE_END;
        connection->closes = 1;
    }
    head->length = 0; /* from now on for the lines between chunks */
    return 1;
}

/* Takes in what has arrived. 1: the answer is complete. */
static int take_bytes(Connection *connection, const char *at, const char *end, uint64_t now)
{
    while (at < end || (connection->part == FIXED && !connection->left)) {
        size_t here = (size_t)(end - at);
        switch (connection->part) {
        case HEAD:
            if (has_head(connection, &at, end))
                connection->first = now;
            break;
        case TO_THE_END:
            take_body(connection, at, here, now);
            at = end;
            break;
        case FIXED:
        case CHUNK:
            if (here > connection->left)
                here = connection->left;
            take_body(connection, at, here, now);
            at += here;
            connection->left -= here;
            if (connection->left)
                break;
            if (connection->part == FIXED)
                return 1;
            connection->part = AFTER_CHUNK;
            break;
        case AFTER_CHUNK:
            if (*at++ == '\n')
                connection->part = CHUNK_SIZE;
            break;
        case CHUNK_SIZE:
            if (here > 6 && !connection->head.length && at[2] == '\r' && at[3] == '\n') { /* what most of them look like */
                connection->left = read_hex(at, 2);
                at += 4;
                connection->part = CHUNK;
                break;
            }
            if (!has_line(connection, &at, end))
                break;
            append(&connection->head, "", 1);
            connection->left = strtoul(connection->head.at, NULL, 16);
            connection->head.length = 0;
            connection->part = connection->left ? CHUNK : TRAILER;
            break;
        case TRAILER:
            if (!has_line(connection, &at, end))
                break;
            if (connection->head.length <= 2)
                return 1;
            connection->head.length = 0;
            break;
        }
    }
    return 0;
}

static void read_answer(Connection *connection)
{
    static char bytes[262144];
    ssize_t count = read(connection->fd, bytes, sizeof bytes);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count > 0) {
        if (take_bytes(connection, bytes, bytes + count, now_ns()))
            finish(connection);
    } else if (connection->part == TO_THE_END && !count) {
        finish(connection);
    } else {
        break_off(connection);
    }
}

static double cpu_seconds(const Group *group)
{
    double ticks = 0;
    for (int each = 0; each < group->count; each++) {
        char path[64], text[1024];
        unsigned long user = 0, system = 0;
        sprintf(path, "/proc/%d/stat", group->pids[each]);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        size_t length = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[length] = 0;
        char *after_name = strrchr(text, ')');
        if (after_name && sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2)
            ticks += (double)(user + system);
    }
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

#define MOST_CORES 64
typedef struct {
    double busy[MOST_CORES];
    int count;
} Cores;

static Cores cores_now(void)
{
    Cores cores = {.count = 0};
    char line[512];
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return cores;
    while (fgets(line, sizeof line, file)) {
        unsigned long user, nice, system, idle, wait, hard, soft, stolen;
        int core;
        if (sscanf(line, "cpu%d %lu %lu %lu %lu %lu %lu %lu %lu", &core, &user, &nice, &system, &idle, &wait, &hard, &soft, &stolen)
                == 9
            && core < MOST_CORES) {
            cores.busy[core] = (double)(user + nice + system + hard + soft + stolen) / (double)sysconf(_SC_CLK_TCK);
            cores.count = core + 1;
        }
    }
    fclose(file);
    return cores;
}

static int ascending(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

static double quantile_us(const Samples *samples, double share)
{
    size_t place = (size_t)(share * (double)samples->length);
    return (double)samples->at[place < samples->length ? place : samples->length - 1] / 1000;
}

static void print_samples(const char *name, Samples *samples)
{
    if (!samples->length) {
        printf(",\"%s\":null", name);
        return;
    }
    double sum = 0;
    qsort(samples->at, samples->length, sizeof *samples->at, ascending);
    for (size_t each = 0; each < samples->length; each++)
        sum += (double)samples->at[each] / 1000;
    printf(",\"%s\":{\"count\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name,
        samples->length, sum / (double)samples->length, quantile_us(samples, .5), quantile_us(samples, .9),
        quantile_us(samples, .99), quantile_us(samples, .999), quantile_us(samples, 1));
}

static void read_keys(const char *path)
{
    static char lines[MOST_KEYS][256];
    FILE *file = fopen(path, "r");
    if (!file)
        fail(path);
    for (; key_count < MOST_KEYS && fgets(lines[key_count], sizeof lines[0], file); key_count++) {
        keys[key_count] = lines[key_count];
        lines[key_count][strcspn(lines[key_count], "\n")] = 0;
    }
    fclose(file);
}

static void write_requests(const char *host, const char *path)
{
    char body[2048], text[4096];
    int length = sprintf(body,
        "{\"model\":\"claude-opus-4-5-20251101\",\"max_tokens\":1024,\"stream\":%s,\"metadata\":{\"user_id\":\"pace=%lu\"},"
        "\"system\":\"You are an assistant that answers in one paragraph, in plain words, and says so when it does not know.\","
        "\"messages\":[{\"role\":\"user\",\"content\":\"Why do tall buildings not fall over when the wind blows?\"},"
        "{\"role\":\"assistant\",\"content\":\"Because they are stiff and heavy, and stand on deep foundations.\"},"
        "{\"role\":\"user\",\"content\":\"And what keeps them from swaying so much that people inside feel sick?\"}]}",
        is_json ? "false" : "true", pace_us);
    requests = calloc((size_t)key_count, sizeof *requests);
    for (int each = 0; each < key_count; each++) {
        sprintf(text,
            "POST %s HTTP/1.1\r\nHost: %s\r\nx-api-key: %s\r\nanthropic-version: 2023-06-01\r\nAccept: application/json\r\n"
            "User-Agent: Anthropic/Python 0.75.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
            path, host, keys[each], length, body);
        requests[each] = strdup(text);
    }
}

static void read_group(char *text)
{
    Group *group = &groups[group_count++];
    char *rest = strchr(text, '=');
    if (!rest || group_count == MOST_GROUPS) {
        fprintf(stderr, "--watch %s: expected NAME=PID,PID\n", text);
        exit(2);
    }
    *rest++ = 0;
    group->name = text;
    for (char *pid = strtok(rest, ","); pid && group->count < MOST_PIDS; pid = strtok(NULL, ","))
        group->pids[group->count++] = atoi(pid);
}

/* Asks, one connection after the other within the ramp, and reads until the last answer has ended. */
static void run(uint64_t warmup, uint64_t length, uint64_t ramp, uint64_t patience)
{
    uint64_t start = now_ns();
    int started = 0, stage = 0;
    Cores before = {.count = 0}, after = {.count = 0};
    begin_at = start + warmup;
    end_at = begin_at + length;
    for (;;) {
        uint64_t now = now_ns();
        for (; started < connection_count && start + ramp * (uint64_t)started / (uint64_t)connection_count <= now; started++) {
            busy++;
            ask(&connections[started]);
        }
        if (stage == 0 && now >= begin_at) {
            for (int each = 0; each < group_count; each++)
                groups[each].before = cpu_seconds(&groups[each]);
            before = cores_now();
            stage = 1;
        }
        if (stage == 1 && now >= end_at) {
            for (int each = 0; each < group_count; each++)
                groups[each].after = cpu_seconds(&groups[each]);
            after = cores_now();
            stage = 2;
        }
        if (stage == 2 && (!busy || now > end_at + patience))
            break;
        uint64_t due = stage == 0 ? begin_at : stage == 1 ? end_at : end_at + patience;
        if (started < connection_count) {
            uint64_t next = start + ramp * (uint64_t)started / (uint64_t)connection_count;
            due = next < due ? next : due;
        }
        struct epoll_event events[512];
        int ready = wait_until(epoll, events, 512, due);
        for (int each = 0; each < ready; each++)
            if (connections[events[each].data.u64].fd >= 0)
                read_answer(&connections[events[each].data.u64]);
    }
    for (int each = 0; each < connection_count && busy; each++)
        if (connections[each].fd >= 0 && connections[each].part != HEAD && connections[each].events < EVENTS)
            all.lost += is_json ? 0 : (uint64_t)(EVENTS - connections[each].events);
    printf("{\"seconds\":%.6f,\"answers\":%lu,\"events\":%lu,\"cores_busy\":[", (double)length / 1e9, measured.answers, measured.events);
    for (int core = 0; core < after.count; core++)
        printf("%s%.3f", core ? "," : "", (after.busy[core] - before.busy[core]) / ((double)length / 1e9));
    printf("],\"cpu_seconds\":{");
    for (int each = 0; each < group_count; each++)
        printf("%s\"%s\":%.2f", each ? "," : "", groups[each].name, groups[each].after - groups[each].before);
    printf("}");
}

int main(int count, char **arguments)
{
    static const struct option options[] = {{"port", 1, 0, 'p'}, {"connections", 1, 0, 'c'}, {"warmup-ms", 1, 0, 'w'},
        {"ms", 1, 0, 's'}, {"ramp-ms", 1, 0, 'r'}, {"patience-ms", 1, 0, 'x'}, {"pace-us", 1, 0, 't'}, {"keys", 1, 0, 'k'},
        {"host", 1, 0, 'h'}, {"path", 1, 0, 'a'}, {"watch", 1, 0, 'g'}, {"json", 0, 0, 'j'}, {0, 0, 0, 0}};
    const char *host = "127.0.0.1", *path = "/v1/messages";
    uint64_t warmup = 0, length = 1000, ramp = 0, patience = 30000;
    signal(SIGPIPE, SIG_IGN);
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;)
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'c': connection_count = atoi(optarg); break;
        case 'w': warmup = strtoul(optarg, NULL, 10); break;
        case 's': length = strtoul(optarg, NULL, 10); break;
        case 'r': ramp = strtoul(optarg, NULL, 10); break;
        case 'x': patience = strtoul(optarg, NULL, 10); break;
        case 't': pace_us = strtoul(optarg, NULL, 10); break;
        case 'k': read_keys(optarg); break;
        case 'h': host = optarg; break;
        case 'a': path = optarg; break;
        case 'g': read_group(optarg); break;
        case 'j': is_json = 1; break;
        default: return 2;
        }
    if (!key_count || !port || !length || connection_count < 1 || connection_count > MOST_CONNECTIONS) {
        fprintf(stderr, "needed: --port, --keys FILE, --ms of 1 or more, --connections 1 to %d\n", MOST_CONNECTIONS);
        return 2;
    }
    write_requests(host, path);
    epoll = epoll_create1(0);
    for (int each = 0; each < connection_count; each++)
        connections[each] = (Connection){.fd = -1, .number = each};
    run(warmup * 1000000, length * 1000000, ramp * 1000000, patience * 1000000);
    printf(",\"all\":{\"requests\":%lu,\"answers\":%lu,\"events\":%lu,\"body_bytes\":%lu,\"lost_events\":%lu,\"disordered\":%lu,"
           "\"broken\":%lu,\"refused\":%lu,\"wrong\":%lu,\"connections\":%lu,\"unfinished\":%d}",
        all.requests, all.answers, all.events, all.body_bytes, all.lost, all.disordered, all.broken, all.refused, all.wrong,
        all.connections, busy);
    print_samples("first_us", &first_event);
    print_samples("gap_us", &gap);
    print_samples("delay_us", &delay);
    print_samples("answer_us", &whole_answer);
    printf("}\n");
    return 0;
}
