// What follows a convolution, channel by channel, four channels at once: mean and squared distances of a part of a
// batch, what normalises, ReLU and the largest of a window.

// Of so many elements. Parts are joined by Chan's formula: nothing cancels, however far from 0 the mean is.
struct Part { mean: vec4f, squares: vec4f, count: vec4f }

fn join(a: Part, b: Part) -> Part {
    let count = a.count + b.count;
    let share = b.count / max(count, vec4f(1.0));
    let distance = b.mean - a.mean;
    return Part(a.mean + distance * share, a.squares + b.squares + distance * distance * (a.count * share), count);
}

var<workgroup> means: array<vec4f, WORKGROUP>;
var<workgroup> distances: array<vec4f, WORKGROUP>;
var<workgroup> counts: array<vec4f, WORKGROUP>;

fn part_at(i: u32) -> Part { return Part(means[i], distances[i], counts[i]); }

fn keep_part(i: u32, p: Part) {
    means[i] = p.mean;
    distances[i] = p.squares;
    counts[i] = p.count;
}

// The parts of a workgroup's threads, as a tree of fixed shape. Thread 0 has the whole.
fn join_group(own: Part, local: u32) -> Part {
    keep_part(local, own);
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half { keep_part(local, join(part_at(local), part_at(local + half))); }
    }
    workgroupBarrier();
    let whole = part_at(0u);
    workgroupBarrier();
    return whole;
}

// What becomes of an element: weight * (z - mean) * inv + bias.
struct Channels { mean: vec4f, inv: vec4f, weight: vec4f, bias: vec4f }

fn normed(c: Channels, z: vec4f) -> vec4f { return fma(c.weight, (z - c.mean) * c.inv, c.bias); }

// A NaN stays one: where there is no order nothing is replaced.
fn rectified(v: vec4f) -> vec4f { return select(v, vec4f(), v <= vec4f()); }

// The four positions of a 2x2 window, normalised and rectified, row by row.
struct Window { a: vec4f, b: vec4f, c: vec4f, d: vec4f }

fn window(own: Channels, a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> Window {
    return Window(rectified(normed(own, a)), rectified(normed(own, b)), rectified(normed(own, c)), rectified(normed(own, d)));
}

// By the bits, because a comparison of floats may assume that there is no NaN. Nothing is below 0 here but a NaN with
// the sign, and a NaN's bits are above all others.
fn largest(w: Window) -> vec4f {
    return bitcast<vec4f>(max(max(bits(w.a), bits(w.b)), max(bits(w.c), bits(w.d))));
}

fn bits(v: vec4f) -> vec4u { return bitcast<vec4u>(v) & vec4u(0x7fffffffu); }
