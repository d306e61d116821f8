/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Included once for each instruction set, with NAME(x) and TARGET. Lanes are vectors of 16 floats, which the compiler
 * makes of what there is; sums have one order for each set. */

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

TARGET ALWAYS static inline NAME(f16) NAME(load_any)(const void *from, enum kv_tensor_type type, int64_t i)
{
    if (type == KV_TENSOR_F32)
        return NAME(load)((const float *)from + i);
    if (type == KV_TENSOR_F16) {
        struct kv_tensor some = {.type = type, .rows = 1, .columns = i + 16, .data = from};
        float x[16];
        kv_tensor_read(&some, i, 16, x);
        return NAME(load)(x);
    }
    NAME(i16) bits;
    WIDEN(bits, (const char *)from + 2 * i);
    return (NAME(f16))(bits << 16);
}

TARGET static void NAME(widen)(const void *from, enum kv_tensor_type type, int64_t n, float *out)
{
    int64_t i = 0;
    struct kv_tensor tail = {.type = type, .rows = 1, .columns = n, .data = from};
    for (; type != KV_TENSOR_F16 && i + 16 <= n; i += 16)
        PUT(out + i, NAME(load_any)(from, type, i));
    if (i < n)
        kv_tensor_read(&tail, i, n - i, out + i);
}

/* What 16 does not divide. */
TARGET static float NAME(dot_tail)(const void *row, enum kv_tensor_type type, int64_t from, int64_t n, const float *x)
{
    struct kv_tensor tail = {.type = type, .rows = 1, .columns = n, .data = row};
    float w[16], sum = 0;
    kv_tensor_read(&tail, from, n - from, w);
    for (int64_t i = from; i < n; i++)
        sum += w[i - from] * x[i];
    return sum;
}

TARGET static void NAME(dot_rows)(const void *row, enum kv_tensor_type type, int64_t n, const float *x, int64_t stride,
                                  int n_x, float *y)
{
    int m = 0;
    for (; m + 4 <= n_x; m += 4, x += 4 * stride) {
        NAME(f16) s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int64_t i = 0; i + 16 <= n; i += 16) {
            NAME(f16) w = NAME(load_any)(row, type, i);
            s0 += w * NAME(load)(x + i);
            s1 += w * NAME(load)(x + stride + i);
            s2 += w * NAME(load)(x + 2 * stride + i);
            s3 += w * NAME(load)(x + 3 * stride + i);
        }
        y[m] = NAME(total)(s0);
        y[m + 1] = NAME(total)(s1);
        y[m + 2] = NAME(total)(s2);
        y[m + 3] = NAME(total)(s3);
        for (int j = 0; j < 4 && n % 16; j++)
            y[m + j] += NAME(dot_tail)(row, type, n / 16 * 16, n, x + j * stride);
    }
    for (; m < n_x; m++, x += stride) {
        NAME(f16) s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        int64_t i = 0;
        for (; i + 64 <= n; i += 64) {
            s0 += NAME(load_any)(row, type, i) * NAME(load)(x + i);
            s1 += NAME(load_any)(row, type, i + 16) * NAME(load)(x + i + 16);
            s2 += NAME(load_any)(row, type, i + 32) * NAME(load)(x + i + 32);
            s3 += NAME(load_any)(row, type, i + 48) * NAME(load)(x + i + 48);
        }
        for (; i + 16 <= n; i += 16)
            s0 += NAME(load_any)(row, type, i) * NAME(load)(x + i);
        y[m] = NAME(total)((s0 + s1) + (s2 + s3));
        if (n % 16)
            y[m] += NAME(dot_tail)(row, type, n / 16 * 16, n, x);
    }
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
    .dot_rows = NAME(dot_rows),
    .widen = NAME(widen),
};
