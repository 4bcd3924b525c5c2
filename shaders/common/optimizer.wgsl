// What the optimizers share: who else wants a parameter's new value, and whether it is finite. (Where a parameter's
// gradient is: common/segments.wgsl. The batch's losses: common/slot.wgsl.)
//
// One thread owns four parameters. The first workgroup has none: it adds the losses.

// What the optimizer changes from one training step to the next. One such block per step, bound at a dynamic offset.
struct Optimizer {
    keep: f32,         // the parameter is first multiplied by this (AdamW's decoupled decay)
    l2: f32,           // the L2 term's factor in the gradient
    step_size: f32,    // Adam: lr / (1 - b1^t); SGD: lr
    denominator: f32,  // Adam: sqrt(1 - b2^t); SGD: 1
    momentum: f32,     // Adam: b1; SGD: its momentum
    rest: f32,         // 1 - momentum, rounded once, from the exact value
    rate: f32,         // the learning rate
}
@group(0) @binding(11) var<uniform> optimizer: Optimizer;
@group(0) @binding(2) var<storage, read_write> params: array<vec4f>;     // [len / 4]
@group(0) @binding(4) var<storage, read_write> first: array<vec4f>;      // [len / 4]: m
@group(0) @binding(5) var<storage, read_write> second: array<vec4f>;     // [len / 4]: v
@group(0) @binding(7) var<storage, read_write> packed: array<f32>;       // every copy

// What four parameters are multiplied by first, and the factor of the L2 term in their gradient: weight decay reaches
// those before `decayed` alone.
fn factor(quad: u32) -> f32 { return select(1.0, optimizer.keep, quad * 4u < dims.decayed); }
fn l2(quad: u32) -> f32 { return select(0.0, optimizer.l2, quad * 4u < dims.decayed); }

// Keeps four parameters, and their copies.
fn keep(quad: u32, found: Found, value: vec4f) {
    params[quad] = value;
    if !found.some || found.segment.copies.y == 0u { return; }
    // Where the first of the four is in the weight, [c_out, c_in, taps]; the others follow by counting, because a
    // division costs as much as all the rest.
    let s = found.segment;
    let c_in = s.copies.y;
    let at = quad * 4u - s.parts.x;
    let taps = s.kernel.x;
    let row = at / taps;
    let first = Place(row / c_in, row % c_in, at - row * taps);
    let second = next(first, c_in, taps);
    let third = next(second, c_in, taps);
    let c_out = eights(s.parts.y / (c_in * taps));
    copy(s, c_out, first, value.x);
    copy(s, c_out, second, value.y);
    copy(s, c_out, third, value.z);
    copy(s, c_out, next(third, c_in, taps), value.w);
}

struct Place { o: u32, c: u32, tap: u32 }

fn next(p: Place, c_in: u32, taps: u32) -> Place {
    let tap = select(p.tap + 1u, 0u, p.tap == taps - 1u);
    let c = p.c + select(0u, 1u, tap == 0u);
    return Place(p.o + select(0u, 1u, c == c_in), select(c, 0u, c == c_in), tap);
}

// `c_out` in eights.
fn copy(s: Segment, c_out: u32, p: Place, value: f32) {
    packed[s.copies.z + (p.c * s.kernel.x + p.tap) * c_out + p.o] = value;
    if s.copies.w != NONE { packed[s.copies.w + ((p.o + 1u) * s.kernel.x - 1u - p.tap) * eights(s.copies.y) + p.c] = value; }
}

fn eights(channels: u32) -> u32 { return (channels + 7u) / 8u * 8u; }

// The bits of the exponents: all of them are set in what is not finite, and in nothing else. A compiler that may take
// every number for finite (Metal's usual mode) would drop a test of the numbers; these are whole numbers to it.
const EXPONENT = 0x7f800000u;

fn exponents(v: vec4f) -> vec4u { return bitcast<vec4u>(v) & vec4u(EXPONENT); }

// Raises the step's flag if one of the exponents is that of a number that is not finite.
fn watch(exponents: vec4u) {
    let largest = max(exponents.xy, exponents.zw);
    if max(largest.x, largest.y) == EXPONENT { atomicStore(&step_losses[batch.slot].broken, batch.stamp); }
}

