// GELU: y = x P(x), dx = dy (P(x) + x P'(x)), where P is the share of a standard normal's draws below x, or what
// PyTorch's `approximate="tanh"` takes for it. One thread owns one element.
//
//   P(x)  = (1 + erf(x / sqrt 2)) / 2       P'(x) = exp(-x^2 / 2) / sqrt(2 pi)
//   P~(x) = (1 + tanh u) / 2 = s(2u)        P~'(x) = s(2u) s(-2u) 2u'       u = sqrt(2/pi) (x + 0.044715 x^3)

struct Gelu {
    features: u32,     // elements of one image
    approximate: u32,  // 1 for the form with tanh
}
@group(0) @binding(1) var<uniform> dims: Gelu;
@group(0) @binding(2) var<storage, read> x: array<f32>;         // [n, features]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [n, features]
@group(0) @binding(4) var<storage, read> dy: array<f32>;        // [n, features]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;  // [n, features]

// P and P'. WGSL has no erf. Of the tail, P(-|x|) = exp(-x^2 / 2) Q(t) / 2 with t = 1 / (1 + 0.3 |x| / sqrt 2), as
// Abramowitz and Stegun 7.1.26 has it; Q is a polynomial of degree 9 without a constant term, which was fitted so that
// its largest relative error, for |x| up to 14, is smallest: 2e-8. With f32's rounding the tail is right to
// (16 + 3 x^2) 2^-24 of itself: x^2 because exp loses as much as its argument is large.
fn exact(v: f32) -> vec2f {
    let e = exp(-0.5 * v * v);
    let t = 1.0 / (1.0 + 0.212132034 * abs(v));
    var q = -0.129523138;
    q = fma(q, t, 0.485564414);
    q = fma(q, t, -0.512280736);
    q = fma(q, t, 0.547723269);
    q = fma(q, t, -0.0946531343);
    q = fma(q, t, 0.214927169);
    q = fma(q, t, 0.14833886);
    q = fma(q, t, 0.170715275);
    q = fma(q, t, 0.169188002);
    let tail = 0.5 * e * (q * t);
    return vec2f(select(tail, 1.0 - tail, v >= 0.0), 0.398942280 * e);
}

fn by_tanh(v: f32) -> vec2f {
    // Beyond 30 s is 0 or 1, and a square would leave f32's numbers.
    let near = clamp(v, -30.0, 30.0);
    let square = near * near;
    let s = sigmoid(1.59576912 * near * fma(0.044715, square, 1.0));
    return vec2f(s.x, s.x * s.y * (1.59576912 * fma(0.134145, square, 1.0)));
}

fn share_below(v: f32) -> vec2f {
    if dims.approximate == 1u { return by_tanh(v); }
    return exact(v);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    y[at] = x[at] * share_below(x[at]).x;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.features { return; }
    let p = share_below(x[at]);
    dx[at] = dy[at] * fma(x[at], p.y, p.x);
}
