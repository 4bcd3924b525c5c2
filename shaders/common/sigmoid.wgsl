// The logistic function.

// 1 / (1 + exp(-v)), and what it lacks to 1. The exponent is never above 0, so nothing overflows, and neither of the
// two is a difference, so both keep their digits where they are next to nothing.
fn sigmoid(v: f32) -> vec2f {
    let e = exp(-abs(v));
    let both = vec2f(1.0, e) / (1.0 + e);
    return select(both.yx, both, v >= 0.0);
}
