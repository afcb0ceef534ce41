/* libnats, driven over standard input and output; README.md has the words. */
#include <nats/nats.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRY_AGAIN_MS 50
#define TEXT_MAX 512
#define URLS_MAX 16
#define SUBS_MAX 256

typedef struct Held {
    uint64_t seq;
    stanMsg *message;
    struct Held *next;
} Held;

typedef struct {
    char name[64];
    bool manual;
    stanSubscription *handle;
    Held *held;
} Sub;

static stanConnection *connection;
static int64_t ack_timeout_ms = 30000;
static Sub subs[SUBS_MAX];
static int subs_count;
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;

/* --- JSON, as little as it takes: requests are flat, and their texts need no escapes ---------- */

static const char *find(const char *line, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(line, quoted);
    if (at == NULL) return NULL;
    at += strlen(quoted);
    return *at == ' ' ? at + 1 : at;
}

static int64_t number(const char *line, const char *key, int64_t absent) {
    const char *at = find(line, key);
    if (at == NULL) return absent;
    if (*at == 't') return 1;
    return strtoll(at, NULL, 10);
}

static bool text(const char *line, const char *key, char *into) {
    const char *at = find(line, key);
    into[0] = '\0';
    if (at == NULL || *at != '"') return false;
    const char *end = strchr(at + 1, '"');
    if (end == NULL || end - at > TEXT_MAX) return false;
    memcpy(into, at + 1, (size_t)(end - at - 1));
    into[end - at - 1] = '\0';
    return true;
}

static void print_text(const char *value, int length) {
    putchar('"');
    for (int i = 0; i < length; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 0x20) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static const char *why(natsStatus status) {
    const char *last = status == NATS_OK ? NULL : nats_GetLastError(NULL);
    return last != NULL && last[0] != '\0' ? last : natsStatus_GetText(status);
}

static void answer(int64_t id, natsStatus status) {
    flockfile(stdout);
    printf("{\"id\":%lld", (long long)id);
    if (status != NATS_OK) {
        const char *error = why(status);
        printf(",\"error\":");
        print_text(error, (int)strlen(error));
    }
    printf("}\n");
    funlockfile(stdout);
}

/* --- connecting ------------------------------------------------------------------------------- */

static void on_lost(stanConnection *sc, const char *error, void *closure) {
    (void)sc, (void)closure;
    flockfile(stdout);
    printf("{\"event\":\"lost\",\"error\":");
    print_text(error, (int)strlen(error));
    printf("}\n");
    funlockfile(stdout);
}

static natsStatus open_connection(const char *line) {
    char urls[TEXT_MAX + 1], cluster[TEXT_MAX + 1], client[TEXT_MAX + 1];
    const char *servers[URLS_MAX];
    int count = 0;
    text(line, "urls", urls), text(line, "cluster", cluster), text(line, "client", client);
    char *rest = urls;
    for (char *url; count < URLS_MAX && (url = strtok_r(rest, ",", &rest)) != NULL;) servers[count++] = url;
    ack_timeout_ms = number(line, "ack_timeout_ms", 30000);

    natsOptions *options = NULL;
    stanConnOptions *stan_options = NULL;
    natsStatus s = natsOptions_Create(&options);
    if (s == NATS_OK) s = natsOptions_SetServers(options, servers, count);
    if (s == NATS_OK) s = natsOptions_SetNoRandomize(options, true);
    if (s == NATS_OK) s = natsOptions_SetReconnectWait(options, 250);
    if (s == NATS_OK) s = natsOptions_SetReconnectJitter(options, 0, 0);
    if (s == NATS_OK) s = natsOptions_SetMaxReconnect(options, 1000);
    if (s == NATS_OK) s = stanConnOptions_Create(&stan_options);
    if (s == NATS_OK) s = stanConnOptions_SetNATSOptions(stan_options, options);
    if (s == NATS_OK) s = stanConnOptions_SetConnectionWait(stan_options, number(line, "timeout_ms", 2000));
    if (s == NATS_OK) s = stanConnOptions_SetPubAckWait(stan_options, ack_timeout_ms);
    if (s == NATS_OK) s = stanConnOptions_SetConnectionLostHandler(stan_options, on_lost, NULL);
    if (s == NATS_OK && find(line, "ping_s"))
        s = stanConnOptions_SetPings(stan_options, (int)number(line, "ping_s", 5), (int)number(line, "ping_max", 88));
    if (s == NATS_OK) s = stanConnection_Connect(&connection, cluster, client, stan_options);
    stanConnOptions_Destroy(stan_options);
    natsOptions_Destroy(options);
    return s;
}

/* --- publishing ------------------------------------------------------------------------------- */

typedef struct Publish Publish;

typedef struct {
    Publish *owner;
    int state; /* 0: unanswered, 1: acked, 2: failed */
    char error[128];
} One;

struct Publish {
    int64_t id, first, count, size, rate;
    bool async;
    char channel[TEXT_MAX + 1], prefix[TEXT_MAX + 1];
    One *ones;
    int64_t answered;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

static void settle(One *one, const char *error) {
    Publish *owner = one->owner;
    pthread_mutex_lock(&owner->lock);
    one->state = error == NULL ? 1 : 2;
    if (error != NULL) snprintf(one->error, sizeof one->error, "%s", error);
    owner->answered++;
    pthread_cond_signal(&owner->changed);
    pthread_mutex_unlock(&owner->lock);
}

static void on_ack(const char *guid, const char *error, void *closure) {
    (void)guid;
    settle(closure, error);
}

static bool is_connected(void) {
    natsConnection *nats = NULL;
    if (stanConnection_GetNATSConnection(connection, &nats) != NATS_OK) return true; /* closed: let it fail */
    natsConnStatus status = natsConnection_Status(nats);
    stanConnection_ReleaseNATSConnection(connection);
    return status == NATS_CONN_STATUS_CONNECTED || status == NATS_CONN_STATUS_CLOSED;
}

static void print_outcomes(const Publish *p) {
    flockfile(stdout);
    printf("{\"id\":%lld,\"acked\":[", (long long)p->id);
    const char *comma = "";
    for (int64_t i = 0; i < p->count; i++)
        if (p->ones[i].state == 1) printf("%s%lld", comma, (long long)(p->first + i)), comma = ",";
    printf("],\"failed\":[");
    comma = "";
    for (int64_t i = 0; i < p->count; i++)
        if (p->ones[i].state == 2) {
            printf("%s[%lld,", comma, (long long)(p->first + i)), comma = ",";
            print_text(p->ones[i].error, (int)strlen(p->ones[i].error));
            putchar(']');
        }
    printf("]}\n");
    funlockfile(stdout);
}

static void *publish(void *closure) {
    Publish *p = closure;
    int64_t began = nats_Now();
    char *data = malloc(sizeof p->prefix + 32 + (size_t)p->size);
    for (int64_t i = 0; i < p->count; i++) {
        One *one = &p->ones[i];
        one->owner = p;
        if (p->rate > 0) {
            int64_t wait = began + i * 1000 / p->rate - nats_Now();
            if (wait > 0) nats_Sleep(wait);
        }
        while (!is_connected()) nats_Sleep(TRY_AGAIN_MS);
        int length = sprintf(data, "%s%lld", p->prefix, (long long)(p->first + i));
        while (length < p->size) data[length++] = '.';
        natsStatus s = p->async ? stanConnection_PublishAsync(connection, p->channel, data, length, on_ack, one)
                                : stanConnection_Publish(connection, p->channel, data, length);
        if (s != NATS_OK) settle(one, why(s));
        else if (!p->async) settle(one, NULL);
    }
    pthread_mutex_lock(&p->lock);
    while (p->answered < p->count) pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    print_outcomes(p);
    free(data), free(p->ones), free(p);
    return NULL;
}

static void begin_publish(const char *line, int64_t id) {
    Publish *p = calloc(1, sizeof *p);
    pthread_t thread;
    p->id = id;
    p->first = number(line, "first", 1), p->count = number(line, "count", 1);
    p->size = number(line, "size", 0), p->rate = number(line, "rate", 0);
    p->async = number(line, "async", 0) != 0;
    text(line, "channel", p->channel), text(line, "prefix", p->prefix);
    p->ones = calloc((size_t)p->count + 1, sizeof *p->ones);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    pthread_create(&thread, NULL, publish, p);
    pthread_detach(thread);
}

/* --- subscribing ------------------------------------------------------------------------------ */

static void on_message(stanConnection *sc, stanSubscription *handle, const char *channel, stanMsg *message,
                       void *closure) {
    (void)sc, (void)handle, (void)channel;
    Sub *sub = closure;
    if (sub->manual) { /* before it is shown: the ack may come at once */
        Held *held = malloc(sizeof *held);
        pthread_mutex_lock(&held_lock);
        *held = (Held){stanMsg_GetSequence(message), message, sub->held};
        sub->held = held;
        pthread_mutex_unlock(&held_lock);
    }
    flockfile(stdout);
    printf("{\"event\":\"message\",\"sub\":\"%s\",\"seq\":%llu,\"redelivered\":%s,\"count\":null,\"ts\":%lld,\"data\":",
           sub->name, (unsigned long long)stanMsg_GetSequence(message),
           stanMsg_IsRedelivered(message) ? "true" : "false", (long long)stanMsg_GetTimestamp(message));
    print_text(stanMsg_GetData(message), stanMsg_GetDataLength(message));
    printf("}\n");
    funlockfile(stdout);
    if (!sub->manual) stanMsg_Destroy(message);
}

static natsStatus subscribe(const char *line) {
    char channel[TEXT_MAX + 1], queue[TEXT_MAX + 1], durable[TEXT_MAX + 1], start[TEXT_MAX + 1], name[TEXT_MAX + 1];
    stanSubOptions *options = NULL;
    if (subs_count == SUBS_MAX) return NATS_NO_MEMORY;
    Sub *sub = &subs[subs_count++];
    text(line, "sub", name), text(line, "channel", channel), text(line, "start", start);
    snprintf(sub->name, sizeof sub->name, "%.63s", name);
    sub->manual = number(line, "manual", 0) != 0;

    natsStatus s = stanSubOptions_Create(&options);
    if (s == NATS_OK && text(line, "durable", durable)) s = stanSubOptions_SetDurableName(options, durable);
    if (s == NATS_OK && find(line, "ack_wait_s"))
        s = stanSubOptions_SetAckWait(options, number(line, "ack_wait_s", 30) * 1000);
    if (s == NATS_OK && find(line, "max_in_flight"))
        s = stanSubOptions_SetMaxInflight(options, (int)number(line, "max_in_flight", 1024));
    if (s == NATS_OK && sub->manual) s = stanSubOptions_SetManualAckMode(options, true);
    if (s == NATS_OK && strcmp(start, "last") == 0) s = stanSubOptions_StartWithLastReceived(options);
    if (s == NATS_OK && strcmp(start, "all") == 0) s = stanSubOptions_DeliverAllAvailable(options);
    if (s == NATS_OK && strcmp(start, "sequence") == 0)
        s = stanSubOptions_StartAtSequence(options, (uint64_t)number(line, "seq", 1));
    if (s == NATS_OK && strcmp(start, "time") == 0)
        s = stanSubOptions_StartAtTime(options, number(line, "time_ms", 0));
    if (s == NATS_OK && strcmp(start, "delta") == 0)
        s = stanSubOptions_StartAtTimeDelta(options, number(line, "delta_ms", 0));
    if (s == NATS_OK) {
        if (text(line, "queue", queue))
            s = stanConnection_QueueSubscribe(&sub->handle, connection, channel, queue, on_message, sub, options);
        else
            s = stanConnection_Subscribe(&sub->handle, connection, channel, on_message, sub, options);
    }
    stanSubOptions_Destroy(options);
    return s;
}

static Sub *find_sub(const char *line) {
    char name[TEXT_MAX + 1];
    text(line, "sub", name);
    for (int i = subs_count - 1; i >= 0; i--)
        if (strcmp(subs[i].name, name) == 0) return &subs[i];
    return NULL;
}

static natsStatus ack(const char *line) {
    Sub *sub = find_sub(line);
    uint64_t seq = (uint64_t)number(line, "seq", 0);
    Held *held = NULL;
    pthread_mutex_lock(&held_lock);
    for (held = sub == NULL ? NULL : sub->held; held != NULL && held->seq != seq;) held = held->next;
    pthread_mutex_unlock(&held_lock);
    return held == NULL ? NATS_NOT_FOUND : stanSubscription_AckMsg(sub->handle, held->message);
}

static natsStatus end(const char *line, natsStatus (*how)(stanSubscription *)) {
    Sub *sub = find_sub(line);
    if (sub == NULL || sub->handle == NULL) return NATS_NOT_FOUND;
    return how(sub->handle);
}

int main(void) {
    static char line[4096];
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    while (fgets(line, sizeof line, stdin) != NULL) {
        char what[TEXT_MAX + 1];
        int64_t id = number(line, "id", 0);
        text(line, "do", what);
        if (strcmp(what, "publish") == 0) {
            begin_publish(line, id);
            continue;
        }
        natsStatus s = NATS_INVALID_ARG;
        if (strcmp(what, "connect") == 0) s = open_connection(line);
        else if (strcmp(what, "subscribe") == 0) s = subscribe(line);
        else if (strcmp(what, "ack") == 0) s = ack(line);
        else if (strcmp(what, "unsubscribe") == 0) s = end(line, stanSubscription_Unsubscribe);
        else if (strcmp(what, "close_sub") == 0) s = end(line, stanSubscription_Close);
        else if (strcmp(what, "close") == 0) s = stanConnection_Close(connection);
        answer(id, s);
    }
    return 0;
}
