/* The exit rule's network on one row, in one call: at its size numpy's calls take several times as long as its sums. */
#include <stdint.h>

#define WIDEST 256

/* Whether exit (output 1) is worth more than continue (output 0). `sizes`: inputs, hidden units of each layer, 2; for each
 * layer `weights` holds a matrix (inputs, outputs) and its biases; ReLU between the layers. No size is over WIDEST. */
int32_t lede_decide(const float *row, const float *weights, const int32_t *sizes, int32_t layers) {
    float units[2][WIDEST];
    const float *x = row;
    for (int32_t l = 0; l < layers; l++) {
        const int32_t inputs = sizes[l], outputs = sizes[l + 1];
        const float *bias = weights + inputs * outputs;
        float *y = units[l & 1];
        for (int32_t o = 0; o < outputs; o++) y[o] = bias[o];
        for (int32_t i = 0; i < inputs; i++, weights += outputs)
            for (int32_t o = 0; o < outputs; o++) y[o] += x[i] * weights[o];
        for (int32_t o = 0; l + 1 < layers && o < outputs; o++) y[o] = y[o] > 0 ? y[o] : 0;
        weights = bias + outputs;
        x = y;
    }
    return x[1] > x[0];
}
