/* SPDX-License-Identifier: GPL-3.0-or-later */
/* How the two readers of tokenizer.json say what is wrong, and take values. */
#ifndef KV_TOKENIZER_JSON_H
#define KV_TOKENIZER_JSON_H

#include "engine/tokenizer_parts.h"

#include <jansson.h>

struct kv_token_json {
    struct kv_tokenizer *t;
    struct kv_err *e;
};

/* False, after saying "'NAME' is VALUE; expected EXPECTED", KV_DATA. VALUE may be NULL: "is missing". */
bool kv_token_json_fail(struct kv_token_json *r, const char *name, const json_t *value, const char *expected);

/* An object whose every key is one of `keys`, words between blanks: a key that is not known may change ids. */
bool kv_token_json_object(struct kv_token_json *r, const char *name, const json_t *value, const char *keys);

/* A member that is true or false; missing or null: `missing`. */
bool kv_token_json_bool(struct kv_token_json *r, const char *name, const json_t *object, const char *key, bool missing,
                        bool *out);

/* A member that is a text, which may not be missing; view of the JSON. */
bool kv_token_json_text(struct kv_token_json *r, const char *name, const json_t *object, const char *key,
                        const char **out);

/* Its "type", or "" when there is none. */
const char *kv_token_json_type(const json_t *object);

#endif
