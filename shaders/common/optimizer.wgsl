// What the optimizers share: where a parameter's gradient is, who else wants its new value, and the batch's loss, which is
// added here because no dispatch of its own is then needed.
//
//   gradient[p] = grads[p]; where a segment holds p, the sum over s of grads[partials + s * stride + p - first]
//   step_losses[slot, i] = dloss * sum over n = i, i + WORKGROUP, ... of losses[n]; together the batch's mean (or sum)
//
// One thread owns four parameters. The first workgroup has none: it adds the losses. What its threads have is added on the
// host, so that no thread waits for another.

// Parameters whose gradient comes in parts, one for each split of the batch. Everything is in elements, in fours.
struct Segment {
    first: u32,        // of the parameters
    len: u32,
    partials: u32,     // where the first split's part is in grads
    splits: u32,
    stride: u32,       // from one split's part to the next
    c_in: u32,         // of the 3x3 convolution whose weight this is, or 0
    packed: u32,       // where forward reads a copy of the weight: [c_in, 9, c_out in eights]
    packed_back: u32,  // the same for backward, or NONE: [c_out, 9 reversed, c_in in eights]
}
@group(0) @binding(2) var<storage, read_write> params: array<vec4f>;     // [len / 4]
@group(0) @binding(3) var<storage, read_write> grads: array<vec4f>;      // [len / 4], then the parts of the segments
@group(0) @binding(4) var<storage, read_write> first: array<vec4f>;      // [len / 4]: m
@group(0) @binding(5) var<storage, read_write> second: array<vec4f>;     // [len / 4]: v
@group(0) @binding(6) var<storage, read> segments: array<Segment>;       // [segments]
@group(0) @binding(7) var<storage, read_write> packed: array<f32>;       // every copy
@group(0) @binding(8) var<storage, read> losses: array<f32>;             // [n]
@group(0) @binding(9) var<storage, read_write> step_losses: array<f32>;  // [slots, WORKGROUP]

const NONE = 0xffffffffu;

// The segment that holds the parameters from `at` on, or NONE. There are a few, so they are tried one by one.
fn segment_of(at: u32) -> u32 {
    var found = NONE;
    for (var i = 0u; i < dims.segments; i++) {
        if at - segments[i].first < segments[i].len { found = i; }
    }
    return found;
}

// The gradient of four parameters, `segment` being theirs. What was in parts is left in grads as a whole.
fn gradient(quad: u32, segment: u32) -> vec4f {
    if segment == NONE { return grads[quad]; }
    let s = segments[segment];
    var sum = vec4f();
    for (var split = 0u; split < s.splits; split++) {
        sum += grads[(s.partials + split * s.stride - s.first) / 4u + quad];
    }
    grads[quad] = sum;
    return sum;
}

// Keeps four parameters, and their copies.
fn keep(quad: u32, segment: u32, value: vec4f) {
    params[quad] = value;
    if segment == NONE { return; }
    let s = segments[segment];
    if s.c_in == 0u { return; }
    let at = quad * 4u - s.first;
    copy(s, at, value.x);
    copy(s, at + 1u, value.y);
    copy(s, at + 2u, value.z);
    copy(s, at + 3u, value.w);
}

fn copy(s: Segment, at: u32, value: f32) {
    let o = at / (s.c_in * 9u);
    let c = at / 9u % s.c_in;
    let tap = at % 9u;
    let c_out = s.len / (s.c_in * 9u);
    packed[s.packed + (c * 9u + tap) * eights(c_out) + o] = value;
    if s.packed_back != NONE { packed[s.packed_back + (o * 9u + 8u - tap) * eights(s.c_in) + c] = value; }
}

fn eights(channels: u32) -> u32 { return (channels + 7u) / 8u * 8u; }

fn add_losses(local: u32) {
    var own = 0.0;
    for (var n = local; n < batch.count; n += WORKGROUP) {
        own += losses[n];
    }
    step_losses[batch.slot * WORKGROUP + local] = batch.dloss * own;
}

