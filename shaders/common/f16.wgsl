// Activations as halves, two a word: what one layer writes in forward and others read takes half the memory and half
// the traffic. Everything is still computed and summed in f32; only what is stored is rounded, once.
//
//   unpack(in_halves(v)) = v (1 + d),  |d| <= 2^-11 to nearest, 2^-10 in any direction, which is all that WGSL
//   promises; below 2^-14 the error is at most 2^-24 instead, or 2^-14 where a device takes such numbers for 0.

alias Quad = vec2u;  // four elements side by side
alias Word = u32;

fn unpack(q: Quad) -> vec4f { return vec4f(unpack2x16float(q.x), unpack2x16float(q.y)); }

const LARGEST_HALF = 0x477fe000u;  // 65504, by its bits
const NAN_HALVES = vec4u(0x7e00u, 0x7e000000u, 0x7e00u, 0x7e000000u);

// What pack2x16float makes of a number that no half holds is indeterminate, and an infinity would be a plain 0 behind
// the next ReLU if the sign of a weight wills it. So such a number is stored as NaN, which no sum and no ReLU hides:
// the loss shows it. By the bits, because a comparison of floats may assume that there is no NaN.
fn in_halves(v: vec4f) -> Quad {
    let beyond = (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) > vec4u(LARGEST_HALF);
    let nan = select(vec4u(), NAN_HALVES, beyond);
    let within = select(v, vec4f(), beyond);
    return vec2u(pack2x16float(within.xy) | nan.x | nan.y, pack2x16float(within.zw) | nan.z | nan.w);
}
