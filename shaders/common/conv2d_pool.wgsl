// Conv2d (3x3, stride 1), ReLU and MaxPool2d (2x2, stride 2) as one operation. The convolution's output is never
// stored: a window keeps its maximum, and a code that says where it was.
//
//   v[a,b]      = bias[o] + sum over c,p,q of  w[o,c,p,q] * x[n, c, 2i+a+p-pad, 2j+b+q-pad]     a, b in {0, 1}
//   y[n,o,i,j]  = max(0, max over a,b of v[a,b]), NaN if any of them is
//   code        = 2a + b of the first v that is the maximum (row by row), or DEAD where the maximum is not above 0;
//                 of the first NaN, if there is one
//   dv[a,b]     = dy[n,o,i,j] where code = 2a + b, else 0: pooling's and ReLU's backward, done while loading
//   dx, dw, db  = Conv2d's, of dv
//
// What every layout of this operation's kernels shares: how a window's patch, its gradient and the weight are loaded,
// what is computed of them, and how results are stored. The kernels are in conv2d_pool.wgsl and in its variants; x_last
// and y are in f32 or in halves (f32.wgsl, f16.wgsl and what builds on them).

struct Conv2dPool {
    c_in: u32, h_in: u32, w_in: u32,
    c_out: u32, h_out: u32, w_out: u32,  // after pooling
    padding_h: u32, padding_w: u32,
    x_channel: u32, x_position: u32,     // strides of x and dx
    y_channel: u32, y_position: u32,     // strides of y, in words of CHANNELS channels
    split: u32,                          // rows of windows of one split of dw and db
    splits: u32,
}
@group(0) @binding(1) var<uniform> dims: Conv2dPool;
@group(0) @binding(2) var<storage, read> x: array<f32>;                   // [n, c_in, h_in, w_in] by its strides
@group(0) @binding(3) var<storage, read> x_last: array<Quad>;             // [n, h_in, w_in, c_in / 4]: x, channels last
@group(0) @binding(4) var<storage, read> w: array<f32>;                   // [c_out, c_in, 3, 3]
@group(0) @binding(5) var<storage, read> b: array<f32>;                   // [c_out]
@group(0) @binding(6) var<storage, read_write> packed: array<vec4f>;      // [c_in, 9, blocks(c_out)]
@group(0) @binding(7) var<storage, read_write> packed_back: array<vec4f>; // [c_out, 9 reversed, blocks(c_in)]
@group(0) @binding(8) var<storage, read> taps: array<vec4f>;              // one of these two, read back
@group(0) @binding(9) var<storage, read_write> y: array<Word>;            // [n, c_out / CHANNELS, h_out, w_out] by its strides
@group(0) @binding(10) var<storage, read_write> codes: array<u32>;        // [n, h_out, w_out, c_out / 4], four bytes a word
@group(0) @binding(11) var<storage, read> codes_in: array<u32>;           // codes, read back
@group(0) @binding(12) var<storage, read> dy: array<vec4f>;               // [n, h_out, w_out, c_out / 4]
@group(0) @binding(13) var<storage, read_write> dx: array<f32>;           // as x
@group(0) @binding(14) var<storage, read_write> partials: array<f32>;     // [splits, weight and bias]: parts of dw and db
@group(0) @binding(15) var<storage, read> dy_planes: array<f32>;          // [n, c_out, h_out, w_out]
@group(0) @binding(16) var<storage, read_write> dy_last: array<f32>;      // dy, to be read back
@group(0) @binding(17) var<storage, read> images: array<u32>;             // [all images, c_in, h_in, w_in]: x in bytes, four a word
@group(0) @binding(18) var<storage, read> order: array<u32>;              // [images of the epoch]: which image is the n-th
@group(0) @binding(19) var<storage, read> normalisation: array<vec2f>;    // [c_in]: x = byte * scale + offset

const DEAD = 4u;
const NAN = 0x7fc00000;

// Blocks of four channels, rounded up to the pairs that a thread owns.
fn blocks(channels: u32) -> u32 { return (channels + 7u) / 8u * 2u; }

// One channel's 4x4 patch; a row is a vector.
struct Patch { r0: vec4f, r1: vec4f, r2: vec4f, r3: vec4f }

// Four channels' patches: for each row, a matrix whose column k is the row of channel k.
struct Patches { r0: mat4x4f, r1: mat4x4f, r2: mat4x4f, r3: mat4x4f }

// One number for each tap, for four channels at once.
struct Taps {
    t00: vec4f, t01: vec4f, t02: vec4f,
    t10: vec4f, t11: vec4f, t12: vec4f,
    t20: vec4f, t21: vec4f, t22: vec4f,
}

// One number for each of a window's four positions, for four channels at once.
struct Window { v00: vec4f, v01: vec4f, v10: vec4f, v11: vec4f }

// Where the 16 elements of a window's patch are, in channel 0; OUTSIDE for those in the padding. Worked out once,
// before the loop over the channels.
struct Site { r0: vec4u, r1: vec4u, r2: vec4u, r3: vec4u }

const OUTSIDE = 0xffffffffu;

// `position` and `image` are the strides from one position and from one image of x to the next.
fn site(window: u32, position: u32, image: u32) -> Site {
    let j = window % dims.w_out;
    let i = window / dims.w_out % dims.h_out;
    let start = window / (dims.h_out * dims.w_out) * image;
    // Above and left of the image this wraps to a large number: one comparison covers both edges.
    let row = 2u * i - dims.padding_h;
    let columns = 2u * j - dims.padding_w + vec4u(0u, 1u, 2u, 3u);
    return Site(site_row(start, row, columns, position), site_row(start, row + 1u, columns, position),
                site_row(start, row + 2u, columns, position), site_row(start, row + 3u, columns, position));
}

fn site_row(start: u32, row: u32, columns: vec4u, position: u32) -> vec4u {
    let inside = (columns < vec4u(dims.w_in)) & vec4<bool>(row < dims.h_in);
    return select(vec4u(OUTSIDE), start + (row * dims.w_in + columns) * position, inside);
}

fn site_last(window: u32) -> Site { return site(window, dims.c_in / 4u, dims.h_in * dims.w_in * (dims.c_in / 4u)); }
fn site_planes(window: u32) -> Site { return site(window, dims.x_position, dims.h_in * dims.w_in * dims.c_in); }

// acc + what the patch gives through the taps to each position of the window.
fn convolve(acc: Window, x: Patch, w: Taps) -> Window {
    return Window(
        corner(acc.v00, x.r0.xyz, x.r1.xyz, x.r2.xyz, w), corner(acc.v01, x.r0.yzw, x.r1.yzw, x.r2.yzw, w),
        corner(acc.v10, x.r1.xyz, x.r2.xyz, x.r3.xyz, w), corner(acc.v11, x.r1.yzw, x.r2.yzw, x.r3.yzw, w),
    );
}

fn corner(acc: vec4f, a: vec3f, b: vec3f, c: vec3f, w: Taps) -> vec4f {
    let top = fma(w.t02, vec4f(a.z), fma(w.t01, vec4f(a.y), fma(w.t00, vec4f(a.x), acc)));
    let middle = fma(w.t12, vec4f(b.z), fma(w.t11, vec4f(b.y), fma(w.t10, vec4f(b.x), top)));
    return fma(w.t22, vec4f(c.z), fma(w.t21, vec4f(c.y), fma(w.t20, vec4f(c.x), middle)));
}

// acc + what the window's gradient and the patch give to each tap.
fn correlate(acc: Taps, v: Window, x: Patch) -> Taps {
    return Taps(
        tap(acc.t00, v, x.r0.xy, x.r1.xy), tap(acc.t01, v, x.r0.yz, x.r1.yz), tap(acc.t02, v, x.r0.zw, x.r1.zw),
        tap(acc.t10, v, x.r1.xy, x.r2.xy), tap(acc.t11, v, x.r1.yz, x.r2.yz), tap(acc.t12, v, x.r1.zw, x.r2.zw),
        tap(acc.t20, v, x.r2.xy, x.r3.xy), tap(acc.t21, v, x.r2.yz, x.r3.yz), tap(acc.t22, v, x.r2.zw, x.r3.zw),
    );
}

fn tap(acc: vec4f, v: Window, a: vec2f, b: vec2f) -> vec4f {
    return fma(v.v11, vec4f(b.y), fma(v.v10, vec4f(b.x), fma(v.v01, vec4f(a.y), fma(v.v00, vec4f(a.x), acc))));
}

// The taps of channel `c` for block `block` of `count`.
fn load_taps(c: u32, count: u32, block: u32) -> Taps {
    let at = c * 9u * count + block;
    return Taps(
        taps[at], taps[at + count], taps[at + 2u * count],
        taps[at + 3u * count], taps[at + 4u * count], taps[at + 5u * count],
        taps[at + 6u * count], taps[at + 7u * count], taps[at + 8u * count],
    );
}

// One element of x, or zero in the padding.
fn load(at: u32, channel: u32) -> f32 {
    let inside = at != OUTSIDE;
    return select(0.0, x[select(0u, at + channel, inside)], inside);
}

fn load_row(at: vec4u, channel: u32) -> vec4f {
    return vec4f(load(at.x, channel), load(at.y, channel), load(at.z, channel), load(at.w, channel));
}

fn load_patch(s: Site, c: u32) -> Patch {
    let channel = c * dims.x_channel;
    return Patch(load_row(s.r0, channel), load_row(s.r1, channel), load_row(s.r2, channel), load_row(s.r3, channel));
}

// The same from the data set's bytes: x = byte * scale + offset, of image order[first + n].
struct Pixels { start: u32, row: u32, column: u32 }  // the image's first byte; the patch's first row and column

fn pixels(window: u32) -> Pixels {
    let image = order[batch.first + window / (dims.h_out * dims.w_out)];
    return Pixels(image * dims.c_in * dims.h_in * dims.w_in,
                  window / dims.w_out % dims.h_out * 2u - dims.padding_h, window % dims.w_out * 2u - dims.padding_w);
}

fn load_pixels(p: Pixels, c: u32) -> Patch {
    let plane = p.start + c * dims.h_in * dims.w_in;
    let affine = normalisation[c];
    return Patch(pixel_row(plane, p.row, p.column, affine), pixel_row(plane, p.row + 1u, p.column, affine),
                 pixel_row(plane, p.row + 2u, p.column, affine), pixel_row(plane, p.row + 3u, p.column, affine));
}

// Four pixels of a row are four bytes side by side, from byte `at` on, in two words. The padding's are other bytes,
// which are not used; left of the data's first row, `at` is below 0.
fn pixel_row(plane: u32, row: u32, column: u32, affine: vec2f) -> vec4f {
    let at = plane + row * dims.w_in + column;
    let second = (at + 4u) / 4u;
    let shift = at % 4u * 8u;
    let word = (images[second - 1u] >> shift) | ((images[second] << 1u) << (31u - shift));
    let bytes = (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
    // No column of a row outside is inside.
    let columns = select(0x7fffffffu, column, row < dims.h_in) + vec4u(0u, 1u, 2u, 3u);
    return select(vec4f(), vec4f(bytes) * affine.x + affine.y, columns < vec4u(dims.w_in));
}

// The same for four channels at once, where they lie side by side.
fn load4(at: u32, block: u32) -> vec4f {
    let inside = at != OUTSIDE;
    return select(vec4f(), unpack(x_last[select(0u, at + block, inside)]), inside);
}

fn load4_row(at: vec4u, block: u32) -> mat4x4f {
    return transpose(mat4x4f(load4(at.x, block), load4(at.y, block), load4(at.z, block), load4(at.w, block)));
}

fn load4_patch(s: Site, block: u32) -> Patches {
    return Patches(load4_row(s.r0, block), load4_row(s.r1, block), load4_row(s.r2, block), load4_row(s.r3, block));
}

// The gradient of a window's four positions: at most one of them has any, and none outside the plane.
fn load_window(at: u32, block: u32) -> Window {
    let inside = at != OUTSIDE;
    let here = select(0u, at + block, inside);
    let upstream = dy[here];
    let word = select(DEAD * 0x01010101u, codes_in[here], inside);
    let code = (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u);
    return Window(select(vec4f(), upstream, code == vec4u(0u)), select(vec4f(), upstream, code == vec4u(1u)),
                  select(vec4f(), upstream, code == vec4u(2u)), select(vec4f(), upstream, code == vec4u(3u)));
}

// Where a window and the eight about it are, in block 0, row by row; OUTSIDE for those that are not in the plane.
struct Around { top: vec3u, middle: vec3u, bottom: vec3u }

fn around(window: u32, plane: vec2u) -> Around {
    let start = window / (plane.x * plane.y) * dims.h_out * dims.w_out;
    let i = window / plane.y % plane.x;
    let columns = window % plane.y + vec3u(0xffffffffu, 0u, 1u);
    return Around(around_row(start, i - 1u, columns), around_row(start, i, columns), around_row(start, i + 1u, columns));
}

fn around_row(start: u32, i: u32, columns: vec3u) -> vec3u {
    let inside = (columns < vec3u(dims.w_out)) & vec3<bool>(i < dims.h_out);
    return select(vec3u(OUTSIDE), (start + i * dims.w_out + columns) * (dims.c_out / 4u), inside);
}

// The 4x4 positions about a window, for a padding of 1: its own four and those of the windows about it that touch them.
fn load_gradient(s: Around, block: u32) -> Patches {
    let a = load_window(s.top.x, block);
    let b = load_window(s.top.y, block);
    let c = load_window(s.top.z, block);
    let d = load_window(s.middle.x, block);
    let e = load_window(s.middle.y, block);
    let f = load_window(s.middle.z, block);
    let g = load_window(s.bottom.x, block);
    let h = load_window(s.bottom.y, block);
    let k = load_window(s.bottom.z, block);
    return Patches(
        transpose(mat4x4f(a.v11, b.v10, b.v11, c.v10)),
        transpose(mat4x4f(d.v01, e.v00, e.v01, f.v00)),
        transpose(mat4x4f(d.v11, e.v10, e.v11, f.v10)),
        transpose(mat4x4f(g.v01, h.v00, h.v01, k.v00)),
    );
}

// The four channels of a block, each through its taps.
fn convolve4(acc: Window, p: Patches, a: Taps, b: Taps, c: Taps, d: Taps) -> Window {
    let first = convolve(acc, Patch(p.r0[0], p.r1[0], p.r2[0], p.r3[0]), a);
    let second = convolve(first, Patch(p.r0[1], p.r1[1], p.r2[1], p.r3[1]), b);
    let third = convolve(second, Patch(p.r0[2], p.r1[2], p.r2[2], p.r3[2]), c);
    return convolve(third, Patch(p.r0[3], p.r1[3], p.r2[3], p.r3[3]), d);
}

fn bias(block: u32) -> Window {
    let o = block * 4u;
    let value = vec4f(bias_of(o), bias_of(o + 1u), bias_of(o + 2u), bias_of(o + 3u));
    return Window(value, value, value, value);
}

fn bias_of(o: u32) -> f32 { return select(0.0, b[min(o, dims.c_out - 1u)], o < dims.c_out); }

// The image of a window, and of the one after a window of image `before`: a division takes long.
fn image_of(window: u32) -> u32 { return window / (dims.h_out * dims.w_out); }
fn image_after(before: u32, window: u32) -> u32 {
    return before + u32(window == (before + 1u) * dims.h_out * dims.w_out);
}

// Pools one window, which is one of image `image`, of one block, and writes its maximum and its codes.
//
// By the bits: a comparison of floats may assume that there is no NaN. As signed integers, numbers above 0 keep their
// order, a NaN is above them, and what is below 0 stays there, in whatever order: its window is dead. But a NaN with
// the sign is below 0 as well; it is where unsigned integers have their maximum. Of several NaNs with different bits
// any may win.
fn pool(window: u32, image: u32, block: u32, v: Window) {
    if block * 4u >= dims.c_out || image >= batch.count { return; }
    let windows = dims.h_out * dims.w_out;
    let b00 = bitcast<vec4i>(v.v00);
    let b01 = bitcast<vec4i>(v.v01);
    let b10 = bitcast<vec4i>(v.v10);
    let b11 = bitcast<vec4i>(v.v11);
    let largest = max(max(b00, b01), max(b10, b11));
    let unsigned = max(max(vec4u(b00), vec4u(b01)), max(vec4u(b10), vec4u(b11)));
    let is_nan = unsigned > vec4u(0xff800000u);
    let winner = select(largest, vec4i(unsigned), is_nan);
    var code = vec4u(3u);
    code = select(code, vec4u(2u), b10 == winner);
    code = select(code, vec4u(1u), b01 == winner);
    code = select(code, vec4u(0u), b00 == winner);

    let rectified = select(max(largest, vec4i()), vec4i(NAN), is_nan);
    code = select(code, vec4u(DEAD), rectified == vec4i());
    codes[window * (dims.c_out / 4u) + block] = code.x | (code.y << 8u) | (code.z << 16u) | (code.w << 24u);
    store_pooled(image * windows * (dims.c_out / CHANNELS) + (window - image * windows) * dims.y_position
                 + block * (4u / CHANNELS) * dims.y_channel, bitcast<vec4f>(rectified));
}

fn weight(o: u32, tap: u32) -> f32 {
    return select(0.0, w[min(o, dims.c_out - 1u) * dims.c_in * 9u + tap], o < dims.c_out);
}

fn weight_back(o: u32, c: u32, tap: u32) -> f32 {
    return select(0.0, w[(o * dims.c_in + min(c, dims.c_in - 1u)) * 9u + 8u - tap], c < dims.c_in);
}

fn store_window(window: u32, plane: vec2u, block: u32, v: Window) {
    let image = window / (plane.x * plane.y);
    if image >= batch.count { return; }
    let row = window / plane.y % plane.x * 2u;
    let column = window % plane.y * 2u;
    store(image, block * 4u, row, column, v.v00);
    store(image, block * 4u, row, column + 1u, v.v01);
    store(image, block * 4u, row + 1u, column, v.v10);
    store(image, block * 4u, row + 1u, column + 1u, v.v11);
}

fn store(image: u32, c: u32, row: u32, column: u32, v: vec4f) {
    if row >= dims.h_in || column >= dims.w_in { return; }
    let at = image * dims.c_in * dims.h_in * dims.w_in + (row * dims.w_in + column) * dims.x_position + c * dims.x_channel;
    if c < dims.c_in { dx[at] = v.x; }
    if c + 1u < dims.c_in { dx[at + dims.x_channel] = v.y; }
    if c + 2u < dims.c_in { dx[at + 2u * dims.x_channel] = v.z; }
    if c + 3u < dims.c_in { dx[at + 3u * dims.x_channel] = v.w; }
}

fn no_taps() -> Taps {
    return Taps(vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f());
}

// The windows of a split: those of its rows, as far as the batch goes.
fn split_windows(split: u32) -> vec2u {
    return min(vec2u(split, split + 1u) * dims.split, vec2u(batch.count * dims.h_out)) * dims.w_out;
}

fn parameters() -> u32 { return dims.c_out * dims.c_in * 9u + dims.c_out; }

fn store_taps(split: u32, o: u32, c: u32, t: Taps) {
    let at = split * parameters() + (o * dims.c_in + c) * 9u;
    store_tap(at, t.t00);
    store_tap(at + 1u, t.t01);
    store_tap(at + 2u, t.t02);
    store_tap(at + 3u, t.t10);
    store_tap(at + 4u, t.t11);
    store_tap(at + 5u, t.t12);
    store_tap(at + 6u, t.t20);
    store_tap(at + 7u, t.t21);
    store_tap(at + 8u, t.t22);
}

fn store_tap(at: u32, v: vec4f) {
    partials[at] = v.x;
    partials[at + dims.c_in * 9u] = v.y;
    partials[at + dims.c_in * 18u] = v.z;
    partials[at + dims.c_in * 27u] = v.w;
}

fn store_bias(split: u32, o: u32, v: vec4f) {
    let at = split * parameters() + dims.c_out * dims.c_in * 9u + o;
    partials[at] = v.x;
    partials[at + 1u] = v.y;
    partials[at + 2u] = v.z;
    partials[at + 3u] = v.w;
}
