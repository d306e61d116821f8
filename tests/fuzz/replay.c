/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Stands in for libFuzzer where there is none: `fuzz_NAME FOLDER...` feeds every file of the folders, in the order of
 * their names, to the target it is linked with. Speaks TAP: one test. The file in hand is named on stderr before it is
 * fed, so that the last name said before a crash is the culprit. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A block of exactly the file's size, so that a read past the end is one a sanitizer sees. */
static bool feed(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    uint8_t *data = size > 0 ? malloc(size) : NULL;
    bool read_all = size == 0 || (data && fread(data, 1, size, file) == size);
    fclose(file);
    if (read_all)
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    return read_all;
}

/* Returns how many files were fed, -1 when the folder or a file in it cannot be read. */
static int feed_folder(const char *folder)
{
    struct dirent **entries;
    int n_entries = scandir(folder, &entries, NULL, alphasort);
    int n_fed = n_entries < 0 ? -1 : 0;

    for (int i = 0; i < n_entries; i++) {
        char path[4096];
        struct stat about;
        int length = snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        free(entries[i]);
        if (n_fed < 0)
            continue;
        if (length >= (int)sizeof path || stat(path, &about) != 0) {
            n_fed = -1;
        } else if (S_ISREG(about.st_mode)) {
            fprintf(stderr, "%s\n", path);
            n_fed = feed(path, (size_t)about.st_size) ? n_fed + 1 : -1;
        }
    }
    if (n_entries >= 0)
        free(entries);
    return n_fed;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    int n_fed = 0;

    printf("1..1\n");
    fflush(stdout);
    LLVMFuzzerTestOneInput(NULL, 0);
    for (int i = 1; i < argc; i++) {
        int n = feed_folder(argv[i]);
        if (n <= 0) {
            printf("not ok 1 - %s\n# '%s': %s\n", name, argv[i], n == 0 ? "no file in it" : strerror(errno));
            return 1;
        }
        n_fed += n;
    }
    printf("ok 1 - %s: %d inputs\n", name, n_fed);
    return 0;
}
