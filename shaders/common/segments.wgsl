// Where a parameter's gradient is: at its own place, or, where a segment holds the parameter, in parts.
//
//   gradient[p] = grads[p]; where a segment holds p, the sum over s of grads[partials + s * stride + p - first]

// Parameters whose gradient comes in parts, one for each split of the batch. Everything is in elements, in fours. In
// vectors, because a load of four words takes a software driver hardly longer than a load of one.
struct Segment {
    // The first parameter; how many; where the first split's part is in grads; splits.
    parts: vec4u,
    // From one split's part to the next; c_in of the convolution whose weight this is, or 0; where forward reads a copy
    // of the weight, [c_in, taps, c_out in eights]; where backward reads one, [c_out, taps reversed, c_in in eights],
    // or NONE.
    copies: vec4u,
    // The taps of the convolution's kernel.
    kernel: vec4u,
}

@group(0) @binding(3) var<storage, read_write> grads: array<vec4f>;  // [len / 4], then the parts of the segments
@group(0) @binding(6) var<storage, read> segments: array<Segment>;   // [segments]

const NONE = 0xffffffffu;

// The segment that holds the parameters from `at` on, if one does. There are a few, so they are tried one by one;
// behind the last there is none to try.
struct Found { some: bool, segment: Segment }

fn segment_of(at: u32) -> Found {
    var found = NONE;
    let count = select(0u, dims.segments, at < dims.parted);
    for (var i = 0u; i < count; i++) {
        let parts = segments[i].parts;
        if at - parts.x < parts.y { found = i; }
    }
    return Found(found != NONE, segments[select(found, 0u, found == NONE)]);
}

// The gradient of four parameters, `found` being their segment. What was in parts is left in grads as a whole.
fn gradient(quad: u32, found: Found) -> vec4f {
    if !found.some { return grads[quad]; }
    let parts = found.segment.parts;
    var sum = vec4f();
    for (var split = 0u; split < parts.w; split++) {
        sum += grads[(parts.z + split * found.segment.copies.x - parts.x) / 4u + quad];
    }
    grads[quad] = sum;
    return sum;
}

