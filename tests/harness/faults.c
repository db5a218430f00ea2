/* Calls of the C library → the same calls, counted by kind, until a rule says that one of them is the last: loaded into the real
 * `rektor serve` with LD_PRELOAD, so that the product needs no code for being killed. Also a disk that refuses writes, and a loss
 * of power: on such a kill, what was written, created, renamed or removed since the last sync of its file or directory may be
 * undone. Steered through a file of 64-bit words (faults.rs), mapped here, so that rules can change while the process runs.
 * Never touches a file outside the data directory, and does nothing at all without REKTOR_FAULTS. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order of faults.rs. */
enum kind { NONE, SYNC, RENAME, UNLINK, TRUNCATE, WRITE, CREATE, ACK, STREAM_RECV, COPY_RECV, CREATE_SLOT, START_REPLICATION, DROP_SLOT, KINDS };
enum action { KILL_BEFORE = 1, KILL_AFTER, CUT };
enum word { RULE_KIND, RULE_ACTION, RULE_COUNTDOWN, LOSE, SEED, DISK_ERRNO, DISK_SKIP, DISK_SHORT, DISK_REFUSED, LOST, CALLS = 16, FIRED = 48, WORDS = 80 };

static _Atomic uint64_t *control; /* 0: no faults */
static char directory[4096], trash[4096];
static size_t directory_length;
static _Atomic bool dying;
static pthread_mutex_t files = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local bool inside; /* this thread holds `files` */

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("REKTOR_FAULTS"), *below = getenv("REKTOR_FAULTS_DIR"), *bin = getenv("REKTOR_FAULTS_TRASH");
    if (!path || !below || !bin) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(0, WORDS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || strlen(below) + 2 > sizeof directory || strlen(bin) + 30 > sizeof trash) {
        fprintf(stderr, "faults: %s: %s\n", path, strerror(errno));
        _exit(99);
    }
    directory_length = (size_t)sprintf(directory, "%s/", below);
    strcpy(trash, bin);
    control = map;
}

static bool below(const char *path) {
    return control && path && !strncmp(path, directory, directory_length - 1)
        && (path[directory_length - 1] == '/' || path[directory_length - 1] == 0);
}

/* The path of an open file below the data directory. */
static bool path_of(int fd, char *out) {
    if (!control || fd < 0) return false;
    char link[40];
    sprintf(link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, 4095);
    if (n <= 0) return false;
    out[n] = 0;
    return below(out);
}

static uint64_t chance(void) {
    uint64_t x = control[SEED] += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* What a loss of power may undo. Content: of files that grow at their end. */
struct content { dev_t dev; ino_t ino; int fd; off_t synced; };
enum { CONTENTS = 256, NAMES = 1024 };
static struct content contents[CONTENTS];
static int contents_used;
/* Names: in order, each until its directory is synced. */
enum change { CREATED, MADE_DIR, RENAMED, REMOVED, REMOVED_DIR };
struct name { enum change what; char path[512], from[512]; };
static struct name names[NAMES];
static int names_used;
static unsigned trashed;

static void discard(const char *path) {
    if (*path) syscall(SYS_unlink, path);
}

static void lock(void) { pthread_mutex_lock(&files); inside = true; }
static void unlock(void) { inside = false; pthread_mutex_unlock(&files); }

static struct content *content_of(int fd, bool make) {
    struct stat s;
    if (fstat(fd, &s) || !S_ISREG(s.st_mode)) return 0;
    for (int i = 0; i < contents_used; i++)
        if (contents[i].dev == s.st_dev && contents[i].ino == s.st_ino) return &contents[i];
    if (!make || contents_used == CONTENTS) return 0;
    contents[contents_used] = (struct content){s.st_dev, s.st_ino, dup(fd), s.st_size};
    return &contents[contents_used++];
}

static void parent_of(const char *path, char *out) {
    strcpy(out, path);
    char *slash = strrchr(out, '/');
    if (slash) *slash = 0;
}

static void synced(int fd, const char *path) {
    struct content *content = content_of(fd, false);
    if (content) {
        syscall(SYS_close, content->fd);
        *content = contents[--contents_used];
        return;
    }
    int kept = 0;
    for (int i = 0; i < names_used; i++) {
        char parent[512];
        parent_of(names[i].path, parent);
        bool settled = !strcmp(parent, path);
        if (settled && names[i].what == REMOVED) discard(names[i].from);
        if (!settled) names[kept++] = names[i];
    }
    names_used = kept;
}

static void changed(enum change what, const char *path, const char *from) {
    if (names_used == NAMES || strlen(path) > 511 || strlen(from) > 511) return; /* taken for durable */
    struct name *name = &names[names_used++];
    name->what = what;
    strcpy(name->path, path);
    strcpy(name->from, from);
}

/* Each directory's unsynced names stay or go together; unsynced bytes stay up to anywhere, a page of them perhaps as zeros.
 * System calls, since the functions of these names are below. */
static void lose(void) {
    uint64_t salt = chance();
    for (int i = 0; i < contents_used; i++) {
        struct stat s;
        if (fstat(contents[i].fd, &s) || s.st_size <= contents[i].synced) continue;
        off_t unsynced = s.st_size - contents[i].synced;
        off_t left = chance() % 3 ? (off_t)(chance() % (uint64_t)(unsynced + 1)) : 0;
        syscall(SYS_ftruncate, contents[i].fd, contents[i].synced + left);
        if (left > 0 && chance() % 2) {
            char zeros[512] = {0};
            off_t at = (off_t)(chance() % (uint64_t)left), n = left - at < 512 ? left - at : 512;
            syscall(SYS_pwrite64, contents[i].fd, zeros, (size_t)n, contents[i].synced + at);
        }
        control[LOST]++;
    }
    for (int i = names_used - 1; i >= 0; i--) {
        char parent[512];
        parent_of(names[i].path, parent);
        uint64_t hash = salt;
        for (char *c = parent; *c; c++) hash = (hash ^ (unsigned char)*c) * 0x100000001B3u;
        if ((hash >> 20) % 2) continue;
        control[LOST]++;
        switch (names[i].what) {
        case CREATED: syscall(SYS_unlink, names[i].path); break;
        case MADE_DIR: syscall(SYS_rmdir, names[i].path); break;
        case RENAMED: syscall(SYS_rename, names[i].path, names[i].from); break;
        case REMOVED: syscall(SYS_link, names[i].from, names[i].path); break;
        case REMOVED_DIR: syscall(SYS_mkdir, names[i].path, 0700); break;
        }
    }
}

static void wait_for_death(void) {
    for (;;) pause();
}

static void die(void) {
    if (atomic_exchange(&dying, true)) wait_for_death();
    if (!inside) lock(); /* a file operation under way ends first */
    if (control[LOSE]) lose();
    kill(getpid(), SIGKILL);
    wait_for_death();
}

/* Counts a call; whether the rule is this one's. */
static bool due(enum kind kind) {
    if (dying && !inside) wait_for_death();
    control[CALLS + kind]++;
    if (control[RULE_KIND] != (uint64_t)kind) return false;
    uint64_t left = control[RULE_COUNTDOWN];
    while (left && !atomic_compare_exchange_weak(&control[RULE_COUNTDOWN], &left, left - 1)) {}
    if (left != 1) return false;
    control[RULE_KIND] = NONE;
    control[FIRED + kind]++;
    return true;
}

static bool before(enum kind kind) {
    bool mine = due(kind);
    if (mine && control[RULE_ACTION] == KILL_BEFORE) die();
    return mine;
}

static void after(bool mine, int fd) {
    int error = errno;
    if (mine && control[RULE_ACTION] == KILL_AFTER) die();
    if (mine && control[RULE_ACTION] == CUT) shutdown(fd, SHUT_RDWR);
    errno = error;
}

/* Whether the disk refuses this; sets errno. A full disk still removes and renames, a failing one still names. */
static bool refused(enum kind kind) {
    int error = (int)control[DISK_ERRNO];
    if (!error) return false;
    bool concerned = (error == EROFS && kind != SYNC) || kind == WRITE || (error == EIO ? kind == SYNC : kind == CREATE || kind == TRUNCATE);
    if (!concerned) return false;
    uint64_t skip = control[DISK_SKIP];
    while (skip && !atomic_compare_exchange_weak(&control[DISK_SKIP], &skip, skip - 1)) {}
    if (skip) return false;
    control[DISK_REFUSED]++;
    errno = error;
    return true;
}

/* ---- files */

#define SYNCING(name, call) \
    REAL(name); \
    char path[4096]; \
    if (!path_of(fd, path)) return call; \
    lock(); \
    bool mine = before(SYNC); \
    int done = refused(SYNC) ? -1 : call; \
    if (!done) synced(fd, path); \
    after(mine, -1); \
    unlock(); \
    return done

int fsync(int fd) { SYNCING(fsync, real(fd)); }
int fdatasync(int fd) { SYNCING(fdatasync, real(fd)); }
int syncfs(int fd) { SYNCING(syncfs, real(fd)); }
/* Promises nothing: counted, and loses nothing less. */
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags) {
    REAL(sync_file_range);
    char path[4096];
    if (!path_of(fd, path)) return real(fd, at, n, flags);
    bool mine = before(SYNC);
    int done = real(fd, at, n, flags);
    after(mine, -1);
    return done;
}

/* A short write: half of what was asked. */
static size_t shortened(size_t n) { return control[DISK_SHORT] && n > 1 ? (n + 1) / 2 : n; }

#define WRITING(name, call) \
    REAL(name); \
    char path[4096]; \
    if (!path_of(fd, path)) return call; \
    lock(); \
    bool mine = before(WRITE); \
    content_of(fd, true); \
    ssize_t done = refused(WRITE) ? -1 : (n = shortened(n), call); \
    after(mine, -1); \
    unlock(); \
    return done

ssize_t pwrite(int fd, const void *buf, size_t n, off_t at) { WRITING(pwrite, real(fd, buf, n, at)); }
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at) { WRITING(pwrite64, real(fd, buf, n, at)); }
ssize_t pwritev(int fd, const struct iovec *v, int count, off_t at) { size_t n = 1; WRITING(pwritev, real(fd, v, count, at)); }
ssize_t pwritev64(int fd, const struct iovec *v, int count, off64_t at) { size_t n = 1; WRITING(pwritev64, real(fd, v, count, at)); }

#define TRUNCATING(name, call) \
    REAL(name); \
    char path[4096]; \
    if (!path_of(fd, path)) return call; \
    lock(); \
    bool mine = before(TRUNCATE); \
    int done = refused(TRUNCATE) ? -1 : call; \
    struct content *content = content_of(fd, false); \
    struct stat s; \
    if (content && !fstat(fd, &s) && s.st_size < content->synced) content->synced = s.st_size; \
    after(mine, -1); \
    unlock(); \
    return done

int ftruncate(int fd, off_t n) { TRUNCATING(ftruncate, real(fd, n)); }
int ftruncate64(int fd, off64_t n) { TRUNCATING(ftruncate64, real(fd, n)); }
int fallocate(int fd, int mode, off_t at, off_t n) { TRUNCATING(fallocate, real(fd, mode, at, n)); }
int fallocate64(int fd, int mode, off64_t at, off64_t n) { TRUNCATING(fallocate64, real(fd, mode, at, n)); }
int posix_fallocate(int fd, off_t at, off_t n) {
    REAL(posix_fallocate);
    char path[4096];
    if (!path_of(fd, path)) return real(fd, at, n);
    bool mine = before(TRUNCATE);
    int error = refused(TRUNCATE) ? errno : real(fd, at, n);
    after(mine, -1);
    return error;
}

static int absolute(int at, const char *path, char *out) {
    if (path[0] == '/') { snprintf(out, 4096, "%s", path); return 1; }
    if (at == AT_FDCWD || !path_of(at, out)) return 0;
    size_t n = strlen(out);
    snprintf(out + n, 4096 - n, "/%s", path);
    return 1;
}

#define RENAMING(name, call, at1, at2) \
    REAL(name); \
    char source[4096], target[4096]; \
    if (!control || !absolute(at1, from, source) || !absolute(at2, to, target) || !below(target)) return call; \
    lock(); \
    bool mine = before(RENAME); \
    int done = refused(RENAME) ? -1 : call; \
    if (!done) changed(RENAMED, target, source); \
    after(mine, -1); \
    unlock(); \
    return done

int rename(const char *from, const char *to) { RENAMING(rename, real(from, to), AT_FDCWD, AT_FDCWD); }
int renameat(int a, const char *from, int b, const char *to) { RENAMING(renameat, real(a, from, b, to), a, b); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { RENAMING(renameat2, real(a, from, b, to, flags), a, b); }

/* Another name of a file. */
#define LINKING(name, call, at) \
    REAL(name); \
    char target[4096]; \
    if (!control || !absolute(at, to, target) || !below(target)) return call; \
    lock(); \
    bool mine = before(CREATE); \
    int done = refused(CREATE) ? -1 : call; \
    if (!done) changed(CREATED, target, ""); \
    after(mine, -1); \
    unlock(); \
    return done

int link(const char *from, const char *to) { LINKING(link, real(from, to), AT_FDCWD); }
int linkat(int a, const char *from, int b, const char *to, int flags) { LINKING(linkat, real(a, from, b, to, flags), b); }

/* A removed file is kept aside until its directory is synced. */
#define REMOVING(name, call, at, is_dir) \
    REAL(name); \
    char target[4096]; \
    if (!control || !absolute(at, path, target) || !below(target)) return call; \
    lock(); \
    bool mine = before(UNLINK); \
    char aside[4200] = ""; \
    if (!(is_dir)) { \
        sprintf(aside, "%s/%d-%u", trash, getpid(), trashed++); \
        syscall(SYS_link, target, aside); \
    } \
    int done = refused(UNLINK) ? -1 : call; \
    if (!done) changed((is_dir) ? REMOVED_DIR : REMOVED, target, aside); \
    else { int error = errno; discard(aside); errno = error; } \
    after(mine, -1); \
    unlock(); \
    return done

int unlink(const char *path) { REMOVING(unlink, real(path), AT_FDCWD, false); }
int unlinkat(int at, const char *path, int flags) { REMOVING(unlinkat, real(at, path, flags), at, flags & AT_REMOVEDIR); }
int rmdir(const char *path) { REMOVING(rmdir, real(path), AT_FDCWD, true); }

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (!below(path)) return real(path, mode);
    lock();
    bool mine = before(CREATE);
    int done = refused(CREATE) ? -1 : real(path, mode);
    if (!done) changed(MADE_DIR, path, "");
    after(mine, -1);
    unlock();
    return done;
}

#define OPENING(name, call, at) \
    REAL(name); \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list list; \
        va_start(list, flags); \
        mode = va_arg(list, mode_t); \
        va_end(list); \
    } \
    char target[4096]; \
    if (!control || !(flags & O_CREAT) || !absolute(at, path, target) || !below(target) || !access(target, F_OK)) return call; \
    lock(); \
    bool mine = before(CREATE); \
    int done = refused(CREATE) ? -1 : call; \
    if (done >= 0) changed(CREATED, target, ""); \
    after(mine, -1); \
    unlock(); \
    return done

int open(const char *path, int flags, ...) { OPENING(open, real(path, flags, mode), AT_FDCWD); }
int open64(const char *path, int flags, ...) { OPENING(open64, real(path, flags, mode), AT_FDCWD); }
int openat(int at, const char *path, int flags, ...) { OPENING(openat, real(at, path, flags, mode), at); }
int openat64(int at, const char *path, int flags, ...) { OPENING(openat64, real(at, path, flags, mode), at); }

/* ---- connections to upstream, known by what was sent on them */

enum socket { OTHER, REPLICATION, STREAM, COPY };
enum { SOCKETS = 65536 };
static _Atomic unsigned char sockets[SOCKETS];

static enum socket socket_of(int fd) { return fd >= 0 && fd < SOCKETS ? sockets[fd] : OTHER; }
static void set_socket(int fd, enum socket is) { if (fd >= 0 && fd < SOCKETS) sockets[fd] = is; }

int socket(int domain, int type, int protocol) {
    REAL(socket);
    int fd = real(domain, type, protocol);
    set_socket(fd, OTHER);
    return fd;
}

int close(int fd) {
    REAL(close);
    set_socket(fd, OTHER);
    return real(fd);
}

static bool has(const void *bytes, size_t n, const char *text) { return memmem(bytes, n, text, strlen(text)) != 0; }

static enum kind sending(int fd, const unsigned char *bytes, size_t n) {
    if (!control || n < 6) return NONE;
    switch (socket_of(fd)) {
    case OTHER:
        if (!memcmp(bytes + 4, "\0\3\0\0", 4) && has(bytes, n, "replication\0database")) set_socket(fd, REPLICATION);
        else if (bytes[0] == 'P' && n < 65536 && has(bytes, n, "to stdout")) set_socket(fd, COPY);
        return NONE;
    case REPLICATION:
        if (has(bytes, n, "START_REPLICATION")) { set_socket(fd, STREAM); return START_REPLICATION; }
        if (has(bytes, n, "CREATE_REPLICATION_SLOT")) return CREATE_SLOT;
        if (has(bytes, n, "DROP_REPLICATION_SLOT")) return DROP_SLOT;
        return NONE;
    case STREAM: return bytes[0] == 'd' && bytes[5] == 'r' ? ACK : NONE;
    case COPY: return NONE;
    }
    return NONE;
}

static enum kind receiving(int fd) {
    if (!control) return NONE;
    enum socket is = socket_of(fd);
    return is == STREAM ? STREAM_RECV : is == COPY ? COPY_RECV : NONE;
}

#define TALKING(of, call) \
    if (control && dying && !inside) wait_for_death(); \
    enum kind counted = of; \
    if (counted == NONE) return call; \
    bool mine = before(counted); \
    ssize_t done = call; \
    after(mine, fd); \
    return done

ssize_t send(int fd, const void *buf, size_t n, int flags) { REAL(send); TALKING(sending(fd, buf, n), real(fd, buf, n, flags)); }
ssize_t recv(int fd, void *buf, size_t n, int flags) { REAL(recv); TALKING(receiving(fd), real(fd, buf, n, flags)); }

ssize_t write(int fd, const void *buf, size_t n) {
    if (socket_of(fd) != OTHER) { REAL(write); TALKING(sending(fd, buf, n), real(fd, buf, n)); }
    WRITING(write, real(fd, buf, n));
}

ssize_t writev(int fd, const struct iovec *v, int count) {
    struct stat s;
    if (control && count > 0 && !fstat(fd, &s) && S_ISSOCK(s.st_mode)) {
        REAL(writev);
        TALKING(sending(fd, v[0].iov_base, v[0].iov_len), real(fd, v, count));
    }
    size_t n = 1;
    WRITING(writev, real(fd, v, count));
}
