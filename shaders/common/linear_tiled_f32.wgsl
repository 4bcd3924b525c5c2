// How a linear layer's forms read x and store y in f32.

@group(0) @binding(2) var<storage, read> x: array<vec4f>;        // [n, inputs / 4]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;    // [n, outputs]

// Where four features of a row are: `at` counts fours.
alias Place = u32;

fn place(at: u32) -> Place { return at; }

// What a loop that counts up has beside `at` in halves; here there is nothing to count.
alias Feature = u32;

fn feature_of(at: u32) -> Feature { return 0u; }
fn further(f: Feature, by: Feature) -> Feature { return f; }
fn place_of(f: Feature, at: u32) -> Place { return at; }

// Where a row of x begins, the last of `count` rows in place of those beyond.
fn x_start(row: u32, count: u32) -> u32 { return min(row, count - 1u) * x_length(); }
fn x_length() -> u32 { return dims.inputs / 4u; }

fn x_from(start: u32, at: Place) -> vec4f { return x[start + at]; }
fn x_at(row: u32, count: u32, at: Place) -> vec4f { return x_from(x_start(row, count), at); }

fn store_y4(n: u32, o: u32, sum: vec4f) {
    let v = rectified(sum);
    let at = n * dims.outputs + o;
    if o < dims.outputs { y[at] = v.x; }
    if o + 1u < dims.outputs { y[at + 1u] = v.y; }
    if o + 2u < dims.outputs { y[at + 2u] = v.z; }
    if o + 3u < dims.outputs { y[at + 3u] = v.w; }
}
