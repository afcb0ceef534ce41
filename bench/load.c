/* Load on a streaming cluster with libnats, and how fast it was: one line of JSON.
 *
 *   load latency URL CLUSTER CHANNEL COUNT SIZE           one publish after the other
 *   load publish URL CLUSTER CHANNEL COUNT SIZE           many in flight, until all are acknowledged
 *   load deliver URL CLUSTER CHANNEL COUNT SIZE SUB_URL   the same, until a subscriber connected to SUB_URL
 *                                                         has received and acknowledged them all
 *   load replay  URL CLUSTER CHANNEL COUNT SIZE           COUNT messages of a channel, from the first
 */
#include <nats/nats.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IN_FLIGHT_MAX 8192
#define UNACKED_MAX 8192
#define WAIT_MS 300000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int64_t stored, received, failed, wanted;

static void die(const char *what, natsStatus s) {
    const char *last = nats_GetLastError(NULL);
    fprintf(stderr, "%s: %s\n", what, last && last[0] ? last : natsStatus_GetText(s));
    exit(1);
}

static void check(const char *what, natsStatus s) {
    if (s != NATS_OK) die(what, s);
}

static stanConnection *open_connection(const char *url, const char *cluster, const char *role) {
    natsOptions *options = NULL;
    stanConnOptions *stan_options = NULL;
    stanConnection *connection = NULL;
    char client[64];
    snprintf(client, sizeof client, "bench-%s-%ld", role, (long)getpid());
    check("options", natsOptions_Create(&options));
    check("options", natsOptions_SetURL(options, url));
    check("options", stanConnOptions_Create(&stan_options));
    check("options", stanConnOptions_SetNATSOptions(stan_options, options));
    check("options", stanConnOptions_SetMaxPubAcksInflight(stan_options, IN_FLIGHT_MAX, 1.0f));
    check("connect", stanConnection_Connect(&connection, cluster, client, stan_options));
    stanConnOptions_Destroy(stan_options);
    natsOptions_Destroy(options);
    return connection;
}

static void on_stored(const char *guid, const char *error, void *closure) {
    (void)guid, (void)closure;
    pthread_mutex_lock(&lock);
    if (error != NULL) {
        if (failed++ == 0) fprintf(stderr, "publish: %s\n", error);
    }
    if (++stored == wanted) pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void on_message(stanConnection *connection, stanSubscription *subscription, const char *channel,
                       stanMsg *message, void *closure) {
    (void)connection, (void)subscription, (void)channel, (void)closure;
    stanMsg_Destroy(message); /* acknowledged by the library when this returns */
    pthread_mutex_lock(&lock);
    if (++received == wanted) pthread_cond_signal(&changed);
    pthread_mutex_unlock(&lock);
}

static void wait_for(const int64_t *count, const char *what) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_MS / 1000;
    pthread_mutex_lock(&lock);
    while (*count < wanted)
        if (pthread_cond_timedwait(&changed, &lock, &until) != 0) {
            fprintf(stderr, "%s: %lld of %lld\n", what, (long long)*count, (long long)wanted);
            exit(1);
        }
    pthread_mutex_unlock(&lock);
}

static stanSubscription *subscribe(stanConnection *connection, const char *channel) {
    stanSubOptions *options = NULL;
    stanSubscription *subscription = NULL;
    check("options", stanSubOptions_Create(&options));
    check("options", stanSubOptions_DeliverAllAvailable(options));
    check("options", stanSubOptions_SetMaxInflight(options, UNACKED_MAX));
    check("subscribe", stanConnection_Subscribe(&subscription, connection, channel, on_message, NULL, options));
    stanSubOptions_Destroy(options);
    return subscription;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void latency(stanConnection *connection, const char *channel, int64_t count, const char *data, int size) {
    double *times = malloc((size_t)count * sizeof *times);
    for (int64_t i = 0; i < count; i++) {
        int64_t began = nats_NowInNanoSeconds();
        check("publish", stanConnection_Publish(connection, channel, data, size));
        times[i] = (double)(nats_NowInNanoSeconds() - began) / 1e6;
    }
    qsort(times, (size_t)count, sizeof *times, by_value);
    printf("{\"count\": %lld, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n", (long long)count,
           times[count / 2], times[count * 99 / 100], times[count - 1]);
    free(times);
}

static void throughput(int64_t began) {
    double seconds = (double)(nats_NowInNanoSeconds() - began) / 1e9;
    printf("{\"count\": %lld, \"seconds\": %.3f, \"per_s\": %.0f}\n", (long long)wanted, seconds,
           (double)wanted / seconds);
}

static void publish(stanConnection *connection, const char *channel, const char *data, int size) {
    for (int64_t i = 0; i < wanted; i++)
        check("publish", stanConnection_PublishAsync(connection, channel, data, size, on_stored, NULL));
    wait_for(&stored, "stored");
}

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: load latency|publish|deliver|replay URL CLUSTER CHANNEL COUNT SIZE [SUB_URL]\n");
        return 2;
    }
    const char *mode = argv[1], *channel = argv[4];
    wanted = atoll(argv[5]);
    int size = atoi(argv[6]);
    char *data = malloc((size_t)size + 1);
    memset(data, '.', (size_t)size);
    stanConnection *connection = open_connection(argv[2], argv[3], mode), *other = NULL;
    stanSubscription *subscription = NULL;
    int64_t began = nats_NowInNanoSeconds();
    if (strcmp(mode, "latency") == 0) {
        latency(connection, channel, wanted, data, size);
    } else if (strcmp(mode, "publish") == 0) {
        publish(connection, channel, data, size);
        throughput(began);
    } else if (strcmp(mode, "deliver") == 0 && argc > 7) {
        other = open_connection(argv[7], argv[3], "receive");
        subscription = subscribe(other, channel);
        began = nats_NowInNanoSeconds();
        publish(connection, channel, data, size);
        wait_for(&received, "received");
        throughput(began);
    } else if (strcmp(mode, "replay") == 0) {
        subscription = subscribe(connection, channel);
        wait_for(&received, "received");
        throughput(began);
    } else {
        return 2;
    }
    if (subscription != NULL) stanSubscription_Destroy(subscription);
    if (other != NULL) stanConnection_Destroy(other);
    stanConnection_Destroy(connection);
    free(data);
    return failed > 0;
}
