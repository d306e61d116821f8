/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "sim/output.h"

#include "sim/core/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool kv_out_open(struct kv_out *o, const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct stat st;
    bool special = !stat(path, &st) && !S_ISREG(st.st_mode);
    *o = (struct kv_out){.path = path, .part = special ? NULL : kv_format(a, "%s.%ld.part", path, (long)getpid())};
    o->file = fopen(special ? path : o->part, "w");
    return o->file || kv_fail(e, KV_ENV, "cannot write '%s': %s", path, strerror(errno));
}

bool kv_out_close(struct kv_out *o, struct kv_err *e)
{
    bool good = !fflush(o->file) && !ferror(o->file);
    int why = errno;
    if (fclose(o->file) && good) {
        good = false;
        why = errno;
    }
    if (good && o->part && rename(o->part, o->path)) {
        good = false;
        why = errno;
    }
    if (good)
        return true;
    if (o->part)
        unlink(o->part);
    return kv_fail(e, KV_ENV, "cannot write '%s': %s", o->path, strerror(why));
}

void kv_out_drop(struct kv_out *o)
{
    fclose(o->file);
    if (o->part)
        unlink(o->part);
}

const char *kv_scratch_folder(const char *purpose, struct kv_arena *a, struct kv_err *e)
{
    const char *tmp = getenv("TMPDIR");
    char *path = kv_format(a, "%s/%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", purpose);
    if (mkdtemp(path))
        return path;
    kv_fail(e, KV_ENV, "cannot make a folder '%s': %s", path, strerror(errno));
    return NULL;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    return remove(path);
}

void kv_remove_tree(const char *path)
{
    enum { FILES_OPEN = 16 };
    nftw(path, remove_one, FILES_OPEN, FTW_DEPTH | FTW_PHYS);
}

FILE *kv_out_scratch(const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct stat st;
    const char *tmp = getenv("TMPDIR");
    char *folder = kv_copy_text(a, path);
    bool special = !stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
    if (special)
        folder = kv_copy_text(a, tmp && *tmp ? tmp : "/tmp");
    while (!special && (stat(folder, &st) || !S_ISDIR(st.st_mode))) {
        char *slash = strrchr(folder, '/');
        if (!slash)
            folder = kv_copy_text(a, ".");
        else
            slash[slash == folder] = '\0';
        if (!slash || !folder[1])
            break;
    }
    int file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char *name = kv_format(a, "%s/.kvsim-XXXXXX", folder);
        file = mkstemp(name);
        if (file >= 0)
            unlink(name);
    }
    FILE *out = file < 0 ? NULL : fdopen(file, "w+");
    if (!out)
        kv_fail(e, KV_ENV, "cannot make a temporary file in '%s': %s", folder, strerror(errno));
    return out;
}

bool kv_out_gather(FILE *scratch, FILE *out, struct kv_err *e)
{
    char buffer[1 << 14];
    if (fflush(scratch) || ferror(scratch)) /* before rewind, which forgets */
        return kv_fail(e, KV_ENV, "cannot write a temporary file: %s", strerror(errno));
    rewind(scratch);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, scratch)) > 0;)
        fwrite(buffer, 1, n, out);
    return !ferror(scratch) || kv_fail(e, KV_ENV, "cannot read a temporary file back: %s", strerror(errno));
}

static bool make_folders(char *path)
{
    for (char *c = path + 1; *c; c++)
        if (*c == '/') {
            *c = '\0';
            int rc = mkdir(path, 0777);
            *c = '/';
            if (rc && errno != EEXIST)
                return false;
        }
    return !mkdir(path, 0777) || errno == EEXIST;
}

/* The first folder of the path that is not there, or NULL. */
static const char *topmost_missing(const char *path, struct kv_arena *a)
{
    struct stat st;
    for (const char *c = path + strspn(path, "/"); *c; c += strspn(c, "/")) {
        c += strcspn(c, "/");
        const char *part = kv_copy_part(a, path, (size_t)(c - path));
        if (stat(part, &st))
            return part;
    }
    return NULL;
}

/* Whether it holds nothing, or results of ours. */
static bool is_ours(const char *path, struct kv_arena *a)
{
    FILE *provenance = fopen(kv_format(a, "%s/provenance.json", path), "r");
    if (provenance) {
        char text[256];
        size_t n = fread(text, 1, sizeof text - 1, provenance);
        fclose(provenance);
        text[n] = '\0';
        return strstr(text, "\"program\": \"kvsim\"") != NULL;
    }
    DIR *dir = opendir(path);
    bool other = !dir;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        size_t length = strlen(entry->d_name);
        bool part = length > 5 && !strcmp(entry->d_name + length - 5, ".part"); /* of a run that was killed */
        other |= entry->d_name[0] != '.' && !part;
    }
    if (dir)
        closedir(dir);
    return !other;
}

bool kv_result_folder_check(const char *path, struct kv_arena *a, struct kv_err *e)
{
    struct stat st;
    if (!*path)
        return kv_fail(e, KV_ENV, "cannot make the result folder '': %s", strerror(ENOENT));
    const char *missing = topmost_missing(path, a);
    if (missing) {
        char *above = kv_copy_text(a, missing), *slash = strrchr(above, '/');
        if (slash)
            slash[slash == above] = '\0';
        const char *parent = slash ? above : ".";
        int why = stat(parent, &st) ? errno : !S_ISDIR(st.st_mode) ? ENOTDIR : access(parent, W_OK | X_OK) ? errno : 0;
        return !why || kv_fail(e, KV_ENV, "cannot make the result folder '%s': %s", path, strerror(why));
    }
    if (stat(path, &st) || !S_ISDIR(st.st_mode))
        return kv_fail(e, KV_ENV, "cannot make the result folder '%s': it is no folder", path);
    if (access(path, W_OK | X_OK))
        return kv_fail(e, KV_ENV, "cannot write in the result folder '%s': %s", path, strerror(errno));
    if (!is_ours(path, a))
        return kv_fail(e, KV_USAGE, "'%s' holds files that are no results of kvsim; give an empty folder or a new name",
                       path);
    return true;
}

bool kv_result_folder(const char *path, struct kv_arena *a, struct kv_err *e)
{
    if (!kv_result_folder_check(path, a, e))
        return false;
    if (!make_folders(kv_copy_text(a, path)))
        return kv_fail(e, KV_ENV, "cannot make the result folder '%s': %s", path, strerror(errno));
    return true;
}

const char *kv_file_hash(const char *path, struct kv_arena *a)
{
    uint64_t h = KV_HASH_START;
    struct stat st;
    FILE *in = !stat(path, &st) && S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    if (!in)
        return "no regular file";
    for (int c; (c = getc_unlocked(in)) != EOF;)
        h = kv_hash_byte(h, c);
    fclose(in);
    return kv_format(a, "%016llx", (unsigned long long)h);
}
