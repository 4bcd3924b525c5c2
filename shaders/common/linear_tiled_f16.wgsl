// How a linear layer's forms read x in halves, and store y in halves or, above the last layer that takes halves, in
// f32.
//
// Feature i is position i % plane of channel i / plane, and a word of x holds one position of two channels, as a block
// stores them. Where nothing but features is below, the plane is 1: two features side by side.

@group(0) @binding(2) var<storage, read> x: array<u32>;          // [n, inputs / plane / 2, plane]
@group(0) @binding(5) var<storage, read_write> y: array<u32>;    // [n, outputs / 2] with `halves`, else the bits of [n, outputs]

// Where four features of a row are: `at` counts fours. In which word, and how far up in it.
struct Place { word: vec4u, shift: vec4u }

// The first of them, by channel and position. A loop counts up from one to the next, because a division takes long.
alias Feature = vec2u;

fn feature_of(at: u32) -> Feature {
    let channel = at * 4u / dims.plane;
    return vec2u(channel, at * 4u - channel * dims.plane);
}

fn further(f: Feature, by: Feature) -> Feature {
    let next = f + by;
    return select(next, vec2u(next.x + 1u, next.y - dims.plane), next.y >= dims.plane);
}

fn place_of(a: Feature, at: u32) -> Place {
    let b = further(a, vec2u(0u, 1u));
    let c = further(b, vec2u(0u, 1u));
    let d = further(c, vec2u(0u, 1u));
    let channels = vec4u(a.x, b.x, c.x, d.x);
    return Place(channels / 2u * dims.plane + vec4u(a.y, b.y, c.y, d.y), channels % 2u * 16u);
}

fn place(at: u32) -> Place { return place_of(feature_of(at), at); }

// Where a row of x begins, the last of `count` rows in place of those beyond.
fn x_start(row: u32, count: u32) -> u32 { return min(row, count - 1u) * x_length(); }
fn x_length() -> u32 { return dims.inputs / 2u; }

fn x_at(row: u32, count: u32, at: Place) -> vec4f { return x_from(x_start(row, count), at); }

fn x_from(start: u32, at: Place) -> vec4f {
    let word = start + at.word;
    let halves = vec4u(x[word.x], x[word.y], x[word.z], x[word.w]) >> at.shift;
    return vec4f(unpack2x16float(halves.x).x, unpack2x16float(halves.y).x,
                 unpack2x16float(halves.z).x, unpack2x16float(halves.w).x);
}

fn store_y4(n: u32, o: u32, sum: vec4f) {
    let v = rectified(sum);
    let at = n * dims.outputs + o;
    if dims.halves != 0u {
        // Then the outputs come in fours.
        if o >= dims.outputs { return; }
        let words = in_halves(v);
        y[at / 2u] = words.x;
        y[at / 2u + 1u] = words.y;
        return;
    }
    if o < dims.outputs { y[at] = bitcast<u32>(v.x); }
    if o + 1u < dims.outputs { y[at + 1u] = bitcast<u32>(v.y); }
    if o + 2u < dims.outputs { y[at + 2u] = bitcast<u32>(v.z); }
    if o + 3u < dims.outputs { y[at + 3u] = bitcast<u32>(v.w); }
}
