/* What the provider and the clients of the measurements have in common: a clock, sockets, growing buffers.
 *
 * Both are written in C, with one thread each, so that together they take less of their core than anything that is
 * measured takes of its own.
 */
#ifndef WIRE_H
#define WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A delta's text begins with MARK, its number and the moment at which it was sent: `#2a0123456789ab `. */
#define MARK '#'
#define NUMBER_DIGITS 2
#define MOMENT_DIGITS 12 /* nanoseconds, of which the low 48 bits */

typedef struct {
    char *at;
    size_t length, room;
} Buffer;

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (uint64_t)moment.tv_sec * 1000000000u + (uint64_t)moment.tv_nsec;
}

static void make_room(Buffer *buffer, size_t more)
{
    if (buffer->length + more <= buffer->room)
        return;
    while (buffer->length + more > buffer->room)
        buffer->room = buffer->room ? 2 * buffer->room : 4096;
    buffer->at = realloc(buffer->at, buffer->room);
    if (!buffer->at)
        fail("memory");
}

static void append(Buffer *buffer, const void *bytes, size_t length)
{
    make_room(buffer, length);
    memcpy(buffer->at + buffer->length, bytes, length);
    buffer->length += length;
}

static void drop_front(Buffer *buffer, size_t length)
{
    buffer->length -= length;
    if (buffer->length)
        memmove(buffer->at, buffer->at + length, buffer->length);
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void send_at_once(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void watch(int epoll, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    if (epoll_ctl(epoll, operation, fd, &event))
        fail("epoll_ctl");
}

/* Waits for events, until `due` (0: for ever). */
static int wait_until(int epoll, struct epoll_event *events, int most, uint64_t due)
{
    struct timespec left = {0, 0}, *timeout = NULL;
    if (due) {
        uint64_t now = now_ns(), ns = due > now ? due - now : 0;
        left.tv_sec = (time_t)(ns / 1000000000u);
        left.tv_nsec = (long)(ns % 1000000000u);
        timeout = &left;
    }
    int count = epoll_pwait2(epoll, events, most, timeout, NULL);
    if (count < 0 && errno != EINTR)
        fail("epoll_pwait2");
    return count < 0 ? 0 : count;
}

/* The value of a header in the head that begins at `head` and ends before `end`; NULL: there is none. */
static const char *header(const char *head, const char *end, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = memchr(head, '\n', (size_t)(end - head)); line; line = memchr(line, '\n', (size_t)(end - line))) {
        line++;
        if ((size_t)(end - line) <= length)
            return NULL;
        if (line[length] == ':' && !strncasecmp(line, name, length)) {
            for (line += length + 1; *line == ' '; line++)
                ;
            return line;
        }
    }
    return NULL;
}

static void write_hex(char *to, int digits, uint64_t value)
{
    for (int place = digits - 1; place >= 0; place--, value >>= 4)
        to[place] = "0123456789abcdef"[value & 15];
}

static uint64_t read_hex(const char *from, int digits)
{
    uint64_t value = 0;
    for (int place = 0; place < digits; place++) {
        char digit = from[place];
        value = value << 4 | (uint64_t)(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10);
    }
    return value;
}

#endif
