/* Preloaded into a node: shifts its wall clock (CLOCK_REALTIME) and its time since boot (CLOCK_BOOTTIME).
 *
 * The file named by SHIFTED_CLOCK holds two 64-bit numbers of nanoseconds, added to the one and to the other.
 * It is mapped, so whoever writes it shifts the clocks at once. CLOCK_MONOTONIC, and whatever waits by it, is the
 * kernel's.
 *
 * libfaketime can't shift the time since boot alone, makes Python's time.sleep fail, and makes a switch between
 * threads take 14 to 45 ms.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static const volatile int64_t *shifts; /* NULL: nothing is shifted */

__attribute__((constructor)) static void map_shifts(void)
{
    const char *path = getenv("SHIFTED_CLOCK");
    int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);

    if (mapped == MAP_FAILED)
        _exit(99); /* a node that goes by the machine's clock would pass for one that was shifted */
    close(file);
    shifts = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long failed = syscall(SYS_clock_gettime, clock, now);
    int64_t shift = 0, ns;

    if (failed != 0 || shifts == NULL)
        return (int)failed;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        shift = shifts[0];
    else if (clock == CLOCK_BOOTTIME)
        shift = shifts[1];
    if (shift != 0) {
        ns = now->tv_sec * SECOND + now->tv_nsec + shift;
        now->tv_sec = ns / SECOND;
        now->tv_nsec = ns % SECOND;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec exact;

    clock_gettime(CLOCK_REALTIME, &exact);
    if (now != NULL)
        *now = exact.tv_sec;
    return exact.tv_sec;
}
