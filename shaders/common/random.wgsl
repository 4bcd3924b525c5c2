// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), as `src/rng.rs` has it: a random number is a function of the
// run's seed, the update, the layer and the element, on every device.

// The upper 32 bits of a product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let middle = a_high * b_low + ((a_low * b_low) >> 16u);
    let other = a_low * b_high + (middle & 0xffffu);
    return a_high * b_high + (middle >> 16u) + (other >> 16u);
}

fn philox(counter: vec4u, seed: vec2u) -> vec4u {
    var c = counter;
    var k = seed;
    for (var i = 0u; i < 10u; i++) {
        c = vec4u(multiply_high(0xcd9e8d57u, c.z) ^ c.y ^ k.x, 0xcd9e8d57u * c.z,
                  multiply_high(0xd2511f53u, c.x) ^ c.w ^ k.y, 0xd2511f53u * c.x);
        k += vec2u(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// 128 random bits for image `k` of this update's batch, `what` being the number of what they serve.
const AUGMENT = 9u;  // `Stream::Augment`
const AFFINE = 13u;  // `Stream::Affine`
const TONE = 14u;    // `Stream::Tone`

fn image_random(what: u32, k: u32) -> vec4u {
    return philox(vec4u(k, batch.step_low, 0u, what | (batch.step_high << 8u)), vec2u(batch.seed_low, batch.seed_high));
}

// 32 random bits of element `i` of what a layer draws in this update: a word of its stream (`Stream::Layer`).
fn layer_random(layer: u32, i: u32) -> u32 {
    let counter = vec4u(i / 4u, batch.step_low, layer, 7u | (batch.step_high << 8u));
    return philox(counter, vec2u(batch.seed_low, batch.seed_high))[i % 4u];
}
