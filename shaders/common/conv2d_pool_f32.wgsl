// How a block's forms store y in f32: [n, c_out, h_out, w_out] by its strides.

const CHANNELS = 1u;  // of y, in a word

// `at` is the first channel's.
fn store_pooled(at: u32, largest: vec4f) {
    y[at] = largest.x;
    y[at + dims.y_channel] = largest.y;
    y[at + 2u * dims.y_channel] = largest.z;
    y[at + 3u * dims.y_channel] = largest.w;
}
