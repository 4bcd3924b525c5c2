// How a block's forms store y in halves: a word holds one position of two channels, [n, c_out / 2, h_out, w_out] by its
// strides. A thread has both, in every form; two positions side by side often are two threads'.

const CHANNELS = 2u;  // of y, in a word

// `at` is the first two channels'.
fn store_pooled(at: u32, largest: vec4f) {
    let words = in_halves(largest);
    y[at] = words.x;
    y[at + dims.y_channel] = words.y;
}
