/* The load of a test guest: what it writes can be checked, and what it waits for is measured, by the guest's clock.
 *
 *   load run BEAT_US FILE_US DIR...          until it is killed; a line on stdout four times a second
 *   load rate FILE BLOCK DEPTH SECONDS       O_DIRECT writes at random places of FILE; one line of JSON
 *
 * "run" keeps on each DIR (a mounted file system):
 *   beat     4,096 bytes: one counter, 16 digits, over and over; written in place with O_DSYNC, and the same number to
 *            every DIR in turn before the next one, so that no disk is ever ahead of an earlier one in the line, and no
 *            one is more than one behind the first
 *   files/N  written as N.tmp, fsynced, renamed, its directory fsynced: under its name it is whole.  Its bytes are N in
 *            16 digits, over and over, (1 + N % 16) * 4,096 of them; all but the last 16 are removed
 * BEAT_US and FILE_US are the pauses after each.  Any error ends it with a line that says so.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, DIGITS = 16, KEPT = 16, MOST_DIRS = 8, MOST_DEPTH = 64 };

static _Atomic uint64_t longest;               /* microseconds, of what ended since the last report */
static _Atomic uint64_t since[MOST_DIRS + 1];  /* when each thread's write began; 0: it is in none */
static _Atomic uint64_t beats, files[MOST_DIRS];
static char **dirs;
static int dir_count;
static useconds_t beat_pause, file_pause;

static void fail(const char *what, const char *path)
{
    printf("vmferry-load: failed to %s %s: %s\n", what, path, strerror(errno));
    fflush(stdout);
    exit(1);
}

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void raise_to(_Atomic uint64_t *held, uint64_t value)
{
    uint64_t seen = atomic_load(held);
    while (seen < value && !atomic_compare_exchange_weak(held, &seen, value)) {}
}

static void begin(int thread) { atomic_store(&since[thread], now()); }

static void end(int thread)
{
    raise_to(&longest, now() - atomic_load(&since[thread]));
    atomic_store(&since[thread], 0);
}

static void number_over_and_over(char *into, size_t length, uint64_t number)
{
    char digits[DIGITS + 1];
    snprintf(digits, sizeof digits, "%016llu", (unsigned long long)number);
    for (size_t at = 0; at < length; at += DIGITS) memcpy(into + at, digits, DIGITS);
}

static uint64_t found_beat(const char *path)
{
    char digits[DIGITS + 1] = "";
    int fd = open(path, O_RDONLY);
    if (fd >= 0 && read(fd, digits, DIGITS) < 0) fail("read", path);
    if (fd >= 0) close(fd);
    return strtoull(digits, NULL, 10);
}

static uint64_t found_files(const char *path)
{
    uint64_t newest = 0;
    DIR *dir = opendir(path);
    for (struct dirent *one; dir && (one = readdir(dir));) {
        uint64_t number = strtoull(one->d_name, NULL, 10);
        if (!strstr(one->d_name, ".tmp") && number > newest) newest = number;
    }
    if (dir) closedir(dir);
    return newest;
}

static void *beat(void *unused)
{
    char path[MOST_DIRS][256], block[BLOCK];
    int fds[MOST_DIRS];
    for (int at = 0; at < dir_count; at++) {
        snprintf(path[at], sizeof path[at], "%s/beat", dirs[at]);
        fds[at] = open(path[at], O_RDWR | O_CREAT | O_DSYNC, 0644);
        if (fds[at] < 0) fail("open", path[at]);
    }
    for (;; usleep(beat_pause)) {
        uint64_t number = atomic_load(&beats) + 1;
        number_over_and_over(block, BLOCK, number);
        for (int at = 0; at < dir_count; at++) {
            begin(MOST_DIRS);
            if (pwrite(fds[at], block, BLOCK, 0) != BLOCK) fail("write", path[at]);
            end(MOST_DIRS);
        }
        atomic_store(&beats, number);
    }
    return unused;
}

static void *file(void *numbered)
{
    static char content[MOST_DIRS][16 * BLOCK];
    int at = (int)(intptr_t)numbered, folder;
    char whole[256], made[300], named[300];
    snprintf(whole, sizeof whole, "%s/files", dirs[at]);
    mkdir(whole, 0755);
    if ((folder = open(whole, O_RDONLY | O_DIRECTORY)) < 0) fail("open", whole);
    for (;; usleep(file_pause)) {
        uint64_t number = atomic_load(&files[at]) + 1;
        ssize_t length = (1 + (ssize_t)(number % 16)) * BLOCK;
        number_over_and_over(content[at], length, number);
        snprintf(made, sizeof made, "%s/%llu.tmp", whole, (unsigned long long)number);
        snprintf(named, sizeof named, "%s/%llu", whole, (unsigned long long)number);
        begin(at);
        int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        if (fd < 0 || write(fd, content[at], length) != length || fsync(fd) || close(fd)) fail("write", made);
        if (rename(made, named) || fsync(folder)) fail("rename", named);
        end(at);
        atomic_store(&files[at], number);
        if (number > KEPT) {
            snprintf(named, sizeof named, "%s/%llu", whole, (unsigned long long)(number - KEPT));
            unlink(named);
        }
    }
    return numbered;
}

static void report(void)
{
    uint64_t most = atomic_exchange(&longest, 0), at = now();
    for (int thread = 0; thread <= MOST_DIRS; thread++) {
        uint64_t began = atomic_load(&since[thread]);
        if (began && at > began && at - began > most) most = at - began;
    }
    printf("vmferry-load: at=%.2f beat=%llu files=", at / 1e6, (unsigned long long)atomic_load(&beats));
    for (int dir = 0; dir < dir_count; dir++)
        printf("%s%llu", dir ? "," : "", (unsigned long long)atomic_load(&files[dir]));
    printf(" longest=%.1f\n", most / 1e3);
    fflush(stdout);
}

static void run(int count, char **words)
{
    pthread_t thread;
    beat_pause = atoi(words[0]), file_pause = atoi(words[1]);
    dirs = words + 2, dir_count = count - 2 < MOST_DIRS ? count - 2 : MOST_DIRS;
    for (int at = 0; at < dir_count; at++) {
        char path[300];
        snprintf(path, sizeof path, "%s/beat", dirs[at]);
        raise_to(&beats, found_beat(path));
        snprintf(path, sizeof path, "%s/files", dirs[at]);
        atomic_store(&files[at], found_files(path));
    }
    report();
    for (intptr_t at = 0; at < dir_count; at++) pthread_create(&thread, NULL, file, (void *)at);
    pthread_create(&thread, NULL, beat, NULL);
    for (;; report()) usleep(250000);
}

static struct { int fd; size_t block, blocks; uint64_t until; } rated;
struct waits { uint64_t count, room; uint32_t *each; };

static void *rate_one(void *seed)
{
    struct waits *made = calloc(1, sizeof *made);
    unsigned place = (unsigned)(intptr_t)seed;
    void *buffer = aligned_alloc(BLOCK, rated.block);
    memset(buffer, 0x40 + (int)place, rated.block);
    for (uint64_t began; (began = now()) < rated.until;) {
        off_t at = (off_t)(rand_r(&place) % rated.blocks) * rated.block;
        if (pwrite(rated.fd, buffer, rated.block, at) != (ssize_t)rated.block) fail("write", "the rated file");
        if (made->count == made->room)
            made->each = realloc(made->each, (made->room = made->room * 2 + 1024) * sizeof *made->each);
        made->each[made->count++] = now() - began;
    }
    return made;
}

static int rising(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static int rate(char **words)
{
    pthread_t threads[MOST_DEPTH];
    int depth = atoi(words[2]) < MOST_DEPTH ? atoi(words[2]) : MOST_DEPTH;
    double seconds = atof(words[3]);
    rated.block = strtoull(words[1], NULL, 10);
    if ((rated.fd = open(words[0], O_RDWR | O_DIRECT)) < 0) fail("open", words[0]);
    rated.blocks = lseek(rated.fd, 0, SEEK_END) / rated.block;
    rated.until = now() + (uint64_t)(seconds * 1e6);
    for (intptr_t at = 0; at < depth; at++) pthread_create(&threads[at], NULL, rate_one, (void *)(at + 1));
    struct waits all = {0};
    for (int at = 0; at < depth; at++) {
        void *ended;
        pthread_join(threads[at], &ended);
        struct waits *one = ended;
        all.each = realloc(all.each, (all.count + one->count + 1) * sizeof *all.each);
        if (one->count) memcpy(all.each + all.count, one->each, one->count * sizeof *all.each);
        all.count += one->count;
    }
    if (!all.count) fail("write anything to", words[0]);
    qsort(all.each, all.count, sizeof *all.each, rising);
    printf("{\"writes\": %llu, \"per_second\": %.1f, \"p50_us\": %u, \"p99_us\": %u, \"longest_us\": %u}\n",
           (unsigned long long)all.count, all.count / seconds, all.each[all.count / 2],
           all.each[all.count * 99 / 100], all.each[all.count - 1]);
    return 0;
}

int main(int count, char **words)
{
    if (count > 4 && !strcmp(words[1], "run")) run(count - 2, words + 2);
    if (count == 6 && !strcmp(words[1], "rate")) return rate(words + 2);
    fputs("load run BEAT_US FILE_US DIR... | load rate FILE BLOCK DEPTH SECONDS\n", stderr);
    return 2;
}
