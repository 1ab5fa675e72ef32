/* y = silu(a x + b) after group normalisation, and its backward pass, for bfloat16 images in channels_last.

   One example at a time: its map is read from memory once and is still in the cache when it is read again. `norm.py` says what
   the coefficients are. Sums are float32, or better where a channel's sums are joined. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint16_t half; /* bfloat16: the upper half of a float */

static inline float wide(half h) {
    union { uint32_t bits; float value; } u = {(uint32_t)h << 16};
    return u.value;
}

static inline half narrow(float f) { /* to the nearest, ties to even; a NaN stays one */
    union { float value; uint32_t bits; } u = {f};
    uint32_t nearest = u.bits + 0x7FFFu + ((u.bits >> 16) & 1u);
    return (half)((f != f ? u.bits | 0x400000u : nearest) >> 16);
}

/* 1 / (1 + exp(-x)), relative error below 1e-6: exp2 by a polynomial on [-1/2, 1/2] and the exponent's bits */
static inline float sigmoid(float x) {
    float t = -1.44269504f * x;
    t = t > 126.0f ? 126.0f : t;
    t = t < -126.0f ? -126.0f : t;
    float whole = __builtin_rintf(t), f = t - whole;
    float e = 1.5403530e-4f;
    e = e * f + 1.3333558e-3f;
    e = e * f + 9.6181291e-3f;
    e = e * f + 5.5504109e-2f;
    e = e * f + 2.4022651e-1f;
    e = e * f + 6.9314718e-1f;
    e = e * f + 1.0f;
    union { uint32_t bits; float value; } scale = {(uint32_t)((int32_t)whole + 127) << 23};
    float result = 1.0f / (1.0f + e * scale.value);
    return x != x ? x : result;
}

static void over_groups(const double *v, float *mean, int c, int groups) {
    int size = c / groups;
    for (int g = 0; g < groups; g++) {
        double sum = 0;
        for (int k = 0; k < size; k++) sum += v[g * size + k];
        for (int k = 0; k < size; k++) mean[g * size + k] = (float)(sum / size);
    }
}

/* Rows of few channels are taken several at a time, so that loops over them are long: how many. */
static int together(int p, int c) {
    int k = 1;
    while (2 * k * c <= 512 && p % (2 * k) == 0) k *= 2;
    return k;
}

static void repeat(const float *v, float *out, int c, int k) {
    for (int j = 0; j < k; j++)
        for (int i = 0; i < c; i++) out[j * c + i] = v[i];
}

static double folded(const float *v, int i, int c, int k) {
    double sum = 0;
    for (int j = 0; j < k; j++) sum += v[j * c + i];
    return sum;
}

/* x, y: (n, p, c). weight, bias: (c). add, scale, shift: (n, c) or null. a, b, r, offset, m1: (n, c), written. */
void forward(const half *x, half *y, const float *weight, const float *bias, const float *add, const float *scale,
             const float *shift, float *a, float *b, float *r, float *offset, float *m1, int n, int p, int c, int groups,
             double eps, int act, int threads) {
    int k = together(p, c), width = k * c, rows = p / k;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < n; i++) {
        const half *xi = x + (size_t)i * p * c;
        half *yi = y + (size_t)i * p * c;
        float *ai = a + i * c, *bi = b + i * c, *ri = r + i * c, *oi = offset + i * c, *mi = m1 + i * c;
        float *room = calloc(2 * width + c, sizeof(float)), *restrict s = room, *restrict q = room + width;
        float *mean = room + 2 * width;
        double *moved = malloc(2 * c * sizeof(double)), *square = moved + c;
        for (int j = 0; j < rows; j++) {
            const half *restrict row = xi + (size_t)j * width;
            for (int m = 0; m < width; m++) {
                float v = wide(row[m]);
                s[m] += v;
                q[m] += v * v;
            }
        }
        for (int m = 0; m < c; m++) {
            double mu = folded(s, m, c, k) / p, e = add ? add[i * c + m] : 0.0;
            mi[m] = (float)mu;
            moved[m] = mu + e;
            square[m] = folded(q, m, c, k) / p + e * (2 * mu + e);
        }
        over_groups(moved, mean, c, groups);
        over_groups(square, ri, c, groups);
        for (int m = 0; m < c; m++) {
            double variance = (double)ri[m] - (double)mean[m] * mean[m];
            ri[m] = (float)(1 / sqrt((variance < 0 ? 0 : variance) + eps));
            float told = scale ? 1 + scale[i * c + m] : 1;
            ai[m] = ri[m] * weight[m] * told;
            oi[m] = add ? mean[m] - add[i * c + m] : mean[m];
            bi[m] = bias[m] * told - oi[m] * ai[m] + (shift ? shift[i * c + m] : 0);
        }
        float *restrict slope = s, *restrict start = q;
        repeat(ai, slope, c, k);
        repeat(bi, start, c, k);
        for (int j = 0; j < rows; j++) {
            const half *restrict row = xi + (size_t)j * width;
            half *restrict out = yi + (size_t)j * width;
            if (act)
                for (int m = 0; m < width; m++) {
                    float u = slope[m] * wide(row[m]) + start[m];
                    out[m] = narrow(u * sigmoid(u));
                }
            else
                for (int m = 0; m < width; m++) out[m] = narrow(slope[m] * wide(row[m]) + start[m]);
        }
        free(room), free(moved);
    }
}

/* dx from dy. gain = weight (1 + scale): (n, c). s0, s1: (n, c), written: the sums of g and of g x, g = dL/d(a x + b);
   k0, k1: (n, c), written: dx = a g + k1 x + k0. */
void backward(const half *x, const half *dy, half *dx, const float *a, const float *b, const float *r, const float *offset,
              const float *gain, float *s0, float *s1, float *k0, float *k1, int n, int p, int c, int groups, int act,
              int threads) {
    int k = together(p, c), width = k * c, rows = p / k;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < n; i++) {
        const half *xi = x + (size_t)i * p * c, *di = dy + (size_t)i * p * c;
        half *gi = dx + (size_t)i * p * c;
        const float *ri = r + i * c, *oi = offset + i * c;
        float *c0 = k0 + i * c, *c1 = k1 + i * c;
        float *room = calloc(4 * width, sizeof(float)), *restrict t0 = room, *restrict t1 = room + width;
        float *restrict slope = room + 2 * width, *restrict start = room + 3 * width;
        double *v = malloc(2 * c * sizeof(double)), *w = v + c;
        repeat(a + i * c, slope, c, k);
        repeat(b + i * c, start, c, k);
        for (int j = 0; j < rows; j++) {
            const half *restrict row = xi + (size_t)j * width, *restrict up = di + (size_t)j * width;
            half *restrict out = gi + (size_t)j * width;
            if (act)
                for (int m = 0; m < width; m++) {
                    float xm = wide(row[m]), u = slope[m] * xm + start[m], h = sigmoid(u);
                    float g = wide(up[m]) * h * (1 + u * (1 - h));
                    t0[m] += g;
                    t1[m] += g * xm;
                    out[m] = narrow(g);
                }
            else
                for (int m = 0; m < width; m++) {
                    float xm = wide(row[m]), g = wide(up[m]);
                    t0[m] += g;
                    t1[m] += g * xm;
                    out[m] = up[m];
                }
        }
        for (int m = 0; m < c; m++) {
            double all = folded(t0, m, c, k), product = folded(t1, m, c, k), pull = gain[i * c + m];
            s0[i * c + m] = (float)all;
            s1[i * c + m] = (float)product;
            v[m] = pull * ri[m] * (product - (double)oi[m] * all); /* gain g z, summed */
            w[m] = pull * all;
        }
        over_groups(v, c1, c, groups);
        over_groups(w, c0, c, groups);
        for (int m = 0; m < c; m++) {
            c1[m] = -ri[m] * ri[m] * c1[m] / p;
            c0[m] = -ri[m] * c0[m] / p - c1[m] * oi[m];
        }
        repeat(c1, t1, c, k);
        repeat(c0, t0, c, k);
        for (int j = 0; j < rows; j++) {
            const half *restrict row = xi + (size_t)j * width;
            half *restrict out = gi + (size_t)j * width;
            for (int m = 0; m < width; m++) out[m] = narrow(slope[m] * wide(out[m]) + t1[m] * wide(row[m]) + t0[m]);
        }
        free(room), free(v);
    }
}
