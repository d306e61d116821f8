/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Included once for each instruction set, with the macros that kernels.c names; it takes them away again. Most loops
 * are over vectors of 16 floats, which the compiler makes of what there is; sums have one order for each set. */

typedef float NAME(f16) __attribute__((vector_size(64), aligned(4)));
typedef int32_t NAME(i16) __attribute__((vector_size(64), aligned(4)));

TARGET ALWAYS static inline NAME(f16) NAME(load)(const float *x)
{
    NAME(f16) v;
    memcpy(&v, x, sizeof v);
    return v;
}

TARGET ALWAYS static inline float NAME(total)(NAME(f16) v)
{
    float s[8], t = 0;
    for (int i = 0; i < 8; i++)
        s[i] = v[i] + v[i + 8];
    t = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
    return t;
}

TARGET static float NAME(dot)(const float *a, const float *b, int64_t n)
{
    NAME(f16) s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 += NAME(load)(a + i) * NAME(load)(b + i);
        s1 += NAME(load)(a + i + 16) * NAME(load)(b + i + 16);
    }
    for (; i + 16 <= n; i += 16)
        s0 += NAME(load)(a + i) * NAME(load)(b + i);
    float sum = NAME(total)(s0 + s1);
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

TARGET static void NAME(axpy)(float *y, float a, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        PUT(y + i, NAME(load)(y + i) + a * NAME(load)(x + i));
    for (; i < n; i++)
        y[i] += a * x[i];
}

TARGET static void NAME(scale)(float *y, float a, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        PUT(y + i, a * NAME(load)(y + i));
    for (; i < n; i++)
        y[i] *= a;
}

TARGET static float NAME(max)(const float *x, int64_t n)
{
    float top = -INFINITY;
    int64_t i = 0;
    if (n >= 16) {
        NAME(f16) m = NAME(load)(x);
        for (i = 16; i + 16 <= n; i += 16) {
            NAME(f16) v = NAME(load)(x + i);
            NAME(i16) more = v > m;
            m = (NAME(f16))((more & (NAME(i16))v) | (~more & (NAME(i16))m));
        }
        for (int l = 0; l < 16; l++)
            top = m[l] > top ? m[l] : top;
    }
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

/* exp for x <= 0, to about 2 units in the last place: 2^n times a polynomial of the rest, |r| <= ln 2 / 2. Below -87.3
 * it is 0: such weights do not count. */
TARGET ALWAYS static inline NAME(f16) NAME(exp16)(NAME(f16) x)
{
    const NAME(f16) low = x * 0 - 87.33654f;
    NAME(i16) alive = x >= low;
    NAME(f16) clipped = (NAME(f16))((alive & (NAME(i16))x) | (~alive & (NAME(i16))low));
    NAME(f16) shifted = clipped * 1.44269504f + 12582912.0f; /* rounds to a whole number in the low bits */
    NAME(i16) n = (NAME(i16))shifted;
    NAME(f16) whole = shifted - 12582912.0f;
    NAME(f16) r = clipped - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    NAME(f16) p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    NAME(i16) bits = (NAME(i16))p + (n << 23);
    return (NAME(f16))(bits & alive);
}

TARGET static float NAME(exp1)(float x)
{
    NAME(f16) v = {0};
    v[0] = x;
    return NAME(exp16)(v)[0];
}

TARGET static float NAME(softmax)(float *x, int64_t n, float top)
{
    NAME(f16) sum = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        NAME(f16) v = NAME(exp16)(NAME(load)(x + i) - top);
        PUT(x + i, v);
        sum += v;
    }
    float total = NAME(total)(sum);
    for (; i < n; i++) {
        x[i] = NAME(exp1)(x[i] - top);
        total += x[i];
    }
    return total;
}

TARGET static void NAME(add_exp)(float *sum, const float *x, int64_t n, float shift)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        PUT(sum + i, NAME(load)(sum + i) + NAME(exp16)(NAME(load)(x + i) - shift));
    for (; i < n; i++)
        sum[i] += NAME(exp1)(x[i] - shift);
}

TARGET static void NAME(silu_times)(float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        NAME(f16) g = NAME(load)(gate + i), u = NAME(load)(up + i);
        NAME(i16) negative = g < 0;
        NAME(f16) size = (NAME(f16))((NAME(i16))g & 0x7fffffff);
        NAME(f16) small = NAME(exp16)(-size); /* exp(-|g|) */
        NAME(f16) one = small * 0 + 1.0f;
        NAME(f16) upper = (NAME(f16))((negative & (NAME(i16))small) | (~negative & (NAME(i16))one));
        PUT(gate + i, g * (upper / (one + small)) * u);
    }
    for (; i < n; i++) {
        float small = NAME(exp1)(-fabsf(gate[i]));
        gate[i] = gate[i] * ((gate[i] < 0 ? small : 1) / (1 + small)) * up[i];
    }
}

TARGET static void NAME(rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *out)
{
    float by = 1 / sqrtf(NAME(dot)(x, x, n) / (float)n + eps);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        PUT(out + i, NAME(load)(x + i) * by * NAME(load)(weight + i));
    for (; i < n; i++)
        out[i] = x[i] * by * weight[i];
}

/* ---- rows of weights, in vectors of LANES that the machine has, with products and sums rounded once if it can ---- */

typedef float NAME(wide) __attribute__((vector_size(4 * LANES)));
typedef float NAME(wide_at) __attribute__((vector_size(4 * LANES), aligned(1), may_alias)); /* anywhere */

TARGET ALWAYS static inline NAME(wide) NAME(get)(const char *row, enum kv_tensor_type type, int64_t i)
{
    NAME(wide) v;
    if (type == KV_TENSOR_F32)
        v = *(const NAME(wide_at) *)(const void *)(row + 4 * i);
    else if (type == KV_TENSOR_BF16)
        FROM_BF16(v, row + 2 * i);
    else
        FROM_F16(v, row + 2 * i);
    return v;
}

/* Numbers from i on, fewer than LANES, and zeros behind them. */
TARGET ALWAYS static inline NAME(wide) NAME(get_last)(const char *row, enum kv_tensor_type type, int64_t i, int64_t n)
{
    struct kv_tensor tail = {.type = type, .rows = 1, .columns = n, .data = row};
    NAME(wide) v;
    float x[LANES] = {0};
    kv_tensor_read(&tail, i, n - i, x);
    memcpy(&v, x, sizeof v);
    return v;
}

TARGET static void NAME(widen)(const void *from, enum kv_tensor_type type, int64_t n, float *out)
{
    int64_t i = 0;
    struct kv_tensor tail = {.type = type, .rows = 1, .columns = n, .data = from};
    for (; i + LANES <= n; i += LANES)
        PUT(out + i, NAME(get)(from, type, i));
    if (i < n)
        kv_tensor_read(&tail, i, n - i, out + i);
}

/* Halves are added to each other until one is left. */
TARGET ALWAYS static inline float NAME(sum_wide)(NAME(wide) v)
{
    typedef float four __attribute__((vector_size(16)));
    four s[LANES / 4];
    memcpy(s, &v, sizeof s);
    if (LANES == 16) {
        s[0] += s[LANES / 8];
        s[1] += s[LANES / 8 + 1];
    }
    s[0] += s[1];
    return (s[0][0] + s[0][2]) + (s[0][1] + s[0][3]);
}

/* One sum for each row and vector. Rows and vectors are constants where this is called, so sums stay in registers.
 * While these rows are read memory fetches the next as many: it would not by itself begin at so many places. */
TARGET ALWAYS static inline void NAME(multiply_block)(const char *row, enum kv_tensor_type type, int64_t n,
                                                      const int rows, const float *const *x, const int n_x, float *out,
                                                      int64_t stride)
{
    int64_t bytes = n * (type == KV_TENSOR_F32 ? 4 : 2), i = 0;
    NAME(wide) sum[MOST_ROWS][KV_MOST_VECTORS], w[MOST_ROWS];
    UNROLL for (int j = 0; j < rows; j++) UNROLL for (int m = 0; m < n_x; m++) sum[j][m] = (NAME(wide)){0};
    for (; i + LANES <= n; i += LANES) {
        UNROLL for (int j = 0; j < rows; j++)
        {
            w[j] = NAME(get)(row + j * bytes, type, i);
            __builtin_prefetch(row + (j + rows) * bytes + i * (type == KV_TENSOR_F32 ? 4 : 2), 0, 2);
        }
        UNROLL for (int m = 0; m < n_x; m++)
        {
            NAME(wide) v = NAME(get)((const char *)x[m], KV_TENSOR_F32, i);
            UNROLL for (int j = 0; j < rows; j++) sum[j][m] = FMA(w[j], v, sum[j][m]);
        }
    }
    UNROLL for (int j = 0; j < rows && i < n; j++) UNROLL for (int m = 0; m < n_x; m++) sum[j][m] =
        FMA(NAME(get_last)(row + j * bytes, type, i, n), NAME(get_last)((const char *)x[m], KV_TENSOR_F32, i, n),
            sum[j][m]);
    UNROLL for (int j = 0; j < rows; j++) UNROLL for (int m = 0; m < n_x; m++) out[m * stride + j] =
        NAME(sum_wide)(sum[j][m]);
}

TARGET ALWAYS static inline void NAME(multiply_many)(const char *row, enum kv_tensor_type type, int64_t n,
                                                     int64_t n_rows, const float *const *x, const int n_x, float *out,
                                                     int64_t stride)
{
    const int at_once = MOST_ROWS * 2 / n_x < 1 ? 1 : MOST_ROWS * 2 / n_x > MOST_ROWS ? MOST_ROWS : MOST_ROWS * 2 / n_x;
    int64_t bytes = n * (type == KV_TENSOR_F32 ? 4 : 2), j = 0;
    for (; j + at_once <= n_rows; j += at_once)
        NAME(multiply_block)(row + j * bytes, type, n, at_once, x, n_x, out + j, stride);
    for (; j < n_rows; j++)
        NAME(multiply_block)(row + j * bytes, type, n, 1, x, n_x, out + j, stride);
}

#define VECTORS(type, k)                                                                                               \
    case k:                                                                                                            \
        NAME(multiply_many)(rows, type, n, n_rows, x, k, out, stride);                                                 \
        break;
#define TYPE(type)                                                                                                     \
    TARGET static void NAME(multiply_##type)(const void *rows, int64_t n, int64_t n_rows, const float *const *x,       \
                                             int n_x, float *out, int64_t stride)                                      \
    {                                                                                                                  \
        switch (n_x) {                                                                                                 \
            VECTORS(type, 1)                                                                                           \
            VECTORS(type, 2)                                                                                           \
            VECTORS(type, 3)                                                                                           \
            VECTORS(type, 4)                                                                                           \
            VECTORS(type, 5)                                                                                           \
            VECTORS(type, 6)                                                                                           \
            VECTORS(type, 7)                                                                                           \
            VECTORS(type, 8)                                                                                           \
        }                                                                                                              \
    }
TYPE(KV_TENSOR_F32)
TYPE(KV_TENSOR_BF16)
TYPE(KV_TENSOR_F16)
#undef VECTORS
#undef TYPE

static void NAME(multiply)(const void *rows, enum kv_tensor_type type, int64_t n, int64_t n_rows, const float *const *x,
                           int n_x, float *out, int64_t stride)
{
    switch (type) {
    case KV_TENSOR_F32:
        NAME(multiply_KV_TENSOR_F32)(rows, n, n_rows, x, n_x, out, stride);
        break;
    case KV_TENSOR_BF16:
        NAME(multiply_KV_TENSOR_BF16)(rows, n, n_rows, x, n_x, out, stride);
        break;
    case KV_TENSOR_F16:
        NAME(multiply_KV_TENSOR_F16)(rows, n, n_rows, x, n_x, out, stride);
        break;
    }
}

TARGET static void NAME(add_rows)(float *y, const float *by, const float *rows, int64_t n, int64_t n_rows)
{
    enum { AT_ONCE = 4 };
    int64_t i = 0;
    for (; i + AT_ONCE * LANES <= n; i += AT_ONCE * LANES) {
        NAME(wide) sum[AT_ONCE];
        UNROLL for (int k = 0; k < AT_ONCE; k++) sum[k] = NAME(get)((const char *)y, KV_TENSOR_F32, i + k * LANES);
        for (int64_t j = 0; j < n_rows; j++) {
            NAME(wide) b = (NAME(wide)){0} + by[j];
            UNROLL for (int k = 0; k < AT_ONCE; k++) sum[k] =
                FMA(b, NAME(get)((const char *)(rows + j * n), KV_TENSOR_F32, i + k * LANES), sum[k]);
        }
        UNROLL for (int k = 0; k < AT_ONCE; k++) * (NAME(wide_at) *)(void *)(y + i + k * LANES) = sum[k];
    }
    for (; i < n; i++)
        for (int64_t j = 0; j < n_rows; j++)
            y[i] += by[j] * rows[j * n + i];
}

static const struct kv_kernels NAME(kernels) = {
    .name = KERNEL_SET,
    .dot = NAME(dot),
    .axpy = NAME(axpy),
    .scale = NAME(scale),
    .max = NAME(max),
    .softmax = NAME(softmax),
    .add_exp = NAME(add_exp),
    .silu_times = NAME(silu_times),
    .rms_norm = NAME(rms_norm),
    .multiply = NAME(multiply),
    .add_rows = NAME(add_rows),
    .widen = NAME(widen),
};

#undef KERNEL_SET
#undef NAME
#undef TARGET
#undef LANES
#undef MOST_ROWS
#undef FMA
#undef FROM_BF16
#undef FROM_F16
