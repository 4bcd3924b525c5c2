// How a block's forms store y in halves: a word holds one position of two channels, [n, c_out / 2, h_out, w_out] by its strides.
// A thread has both, in every form; two positions side by side often are two threads'.

const CHANNELS = 2u;  // of y, in a word

// `at` is the first two channels'. The largest of a window is found by comparisons, which pass over a NaN that is not its first.
fn store_pooled(at: u32, v: Window, largest: vec4f) {
    let lost = is_nan(v.v00) | is_nan(v.v01) | is_nan(v.v10) | is_nan(v.v11);
    let words = in_halves_or_nan(largest, lost);
    y[at] = words.x;
    y[at + dims.y_channel] = words.y;
}
