/*
 * A bad disk and a bad clock for a process that this is loaded into
 * (LD_PRELOAD). What goes wrong stands in files of the folder TALLY_FAULTS,
 * and is looked up at each call:
 *
 *   eio    fsync and fdatasync fail
 *   slow   they take so many milliseconds longer
 *   clock  the time of day is wrong by so many seconds
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* The number in a file of the folder; 0 without one. */
static long fault(const char *name)
{
    const char *folder = getenv("TALLY_FAULTS");
    char path[4096];
    long number = 0;
    if (folder == NULL)
        return 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld", &number) != 1)
        number = 0;
    fclose(file);
    return number;
}

static int synced(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    long slow = fault("slow");
    if (slow > 0)
        usleep((useconds_t)slow * 1000);
    if (fault("eio") != 0) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd)
{
    return synced("fsync", fd);
}

int fdatasync(int fd)
{
    return synced("fdatasync", fd);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, time);
    if (done == 0 && clock == CLOCK_REALTIME)
        time->tv_sec += fault("clock");
    return done;
}
