// Conv2d in register tiles without a pooling: 3x3 at stride 1 or 2, 1x1 at stride 1 or 2, one group. Everything has its
// channels last, four of them a vector, rounded up with zeros.
//
//   z[n,o,i,j]  = sum over c,p,q of  w[o,c,p,q] * x[n, c, i*s+p-pad, j*s+q-pad]
//   dx[n,c,h,w] = sum over o,p,q of  w[o,c,p,q] * dz[n, o, (h+pad-p)/s, (w+pad-q)/s]   where they are whole
//   dw[o,c,p,q] = sum over n,i,j of  dz[n,o,i,j] * x[n, c, i*s+p-pad, j*s+q-pad]
//   db[o]       = sum over n,i,j of  dz[n,o,i,j]
//
// A thread owns 4x4 positions of z or dx, times BLOCKS blocks of four channels; the threads of a workgroup own the same
// blocks, so that all of them use the same taps. For dw it owns a block of output channels, one of input channels and
// some taps, over the rows of one split. What follows the sums is one of three:
//
//   measured   z is stored, and mean and squared distances of the workgroup's part of it: a batch norm follows
//   answered   y = pool(relu(weight * (z - mean) * inv + bias + skip)), each part where it is wanted
//   gradient   dx = what another reader of x gave + the sums
//
// dx at stride 1 is a convolution of dz itself, by the taps in reverse: the dimensions are then those of that one.
// The files that build on this say how taps come to a thread: BLOCKS, Fetched, fetch, fetch_point, low, high, tap, and
// convolve, owns and the weight's gradient, whose loops go with it.

struct Conv2dTiled {
    c_in: u32, h_in: u32, w_in: u32,
    c_out: u32, h_out: u32, w_out: u32,
    tiles_h: u32, tiles_w: u32,      // of an image of z or dx
    padding_h: u32, padding_w: u32,
    stride: u32,                     // of a 1x1 kernel; those of 3x3 are in the pass
    relu: u32, adds: u32, pools: u32,
    bias: u32,                       // whether db is wanted
    split: u32, splits: u32,         // rows of dz of one split of dw, and how many splits there are
}
@group(0) @binding(1) var<uniform> dims: Conv2dTiled;
@group(0) @binding(2) var<storage, read> x: array<vec4f>;                 // [n, h_in, w_in, blocks(c_in)]
@group(0) @binding(3) var<storage, read> w: array<f32>;                   // [c_out, c_in, taps]
@group(0) @binding(4) var<storage, read_write> packed: array<vec4f>;      // [fours(c_in), taps, pairs of blocks(c_out)]
@group(0) @binding(5) var<storage, read_write> packed_back: array<vec4f>; // [c_out, taps reversed, pairs of blocks(c_in)]
@group(0) @binding(6) var<storage, read> taps: array<vec4f>;              // one of these two, read back
@group(0) @binding(7) var<storage, read_write> y: array<vec4f>;           // [n, h_out, w_out, blocks(c_out)]; half of it, pooled
@group(0) @binding(8) var<storage, read> skip: array<vec4f>;              // as y
@group(0) @binding(9) var<storage, read> before: array<vec4f>;            // as y: the gradient that another reader gave
@group(0) @binding(10) var<storage, read> table: array<Channels>;         // [blocks(c_out)]
@group(0) @binding(11) var<storage, read_write> parts: array<Part>;       // [blocks(c_out), groups of tiles]
@group(0) @binding(12) var<storage, read> dz: array<vec4f>;               // as z
@group(0) @binding(13) var<storage, read_write> partials: array<f32>;     // [splits, weight and bias]: parts of dw and db

fn blocks(channels: u32) -> u32 { return (channels + 3u) / 4u; }

// Blocks as the packed weight has them: in pairs.
fn paired(channels: u32) -> u32 { return (channels + 7u) / 8u * 2u; }

// Positions of a row of a tile, of one block.
struct Row { a: vec4f, b: vec4f, c: vec4f, d: vec4f }
struct Sums { r0: Row, r1: Row, r2: Row, r3: Row }
// A thread's tile: BLOCKS blocks; the second one is not used where there is one.
struct Tile { low: Sums, high: Sums }

// A row of taps: four output channels for each of four input channels, at three columns.
struct Taps { w0: mat4x4f, w1: mat4x4f, w2: mat4x4f }

fn no_row() -> Row { return Row(vec4f(), vec4f(), vec4f(), vec4f()); }
fn no_sums() -> Sums { return Sums(no_row(), no_row(), no_row(), no_row()); }

// acc + what four input channels give through their taps.
fn through(acc: vec4f, w: mat4x4f, v: vec4f) -> vec4f {
    return fma(w[3], vec4f(v.w), fma(w[2], vec4f(v.z), fma(w[1], vec4f(v.y), fma(w[0], vec4f(v.x), acc))));
}

fn point(acc: Row, v: Row, w: mat4x4f) -> Row {
    return Row(through(acc.a, w, v.a), through(acc.b, w, v.b), through(acc.c, w, v.c), through(acc.d, w, v.d));
}

// Where a tile is: its image, and the first row and column of its output. Left of the image and above it these wrap to
// large numbers, so that one comparison covers both edges. A thread past the last tile does the last one again, and
// stores nothing: nobody may leave while others share what they load.
struct Site { image: u32, row: u32, column: u32, some: bool }

fn site(thread: u32) -> Site {
    let plane = dims.tiles_h * dims.tiles_w;
    let count = batch.count * plane;
    let at = min(thread, count - 1u);
    return Site(at / plane, at % plane / dims.tiles_w * 4u, at % dims.tiles_w * 4u, thread < count);
}

// One vector of x; 0 in the padding. (`load_column(input_row(image, row, c), column)` is the same, and keeps one more
// register in memory in three passes on RDNA 3.)
fn load(image: u32, row: u32, column: u32, c: u32) -> vec4f {
    let inside = (row < dims.h_in) & (column < dims.w_in);
    let at = ((image * dims.h_in + row) * dims.w_in + column) * blocks(dims.c_in) + c;
    return select(vec4f(), x[select(0u, at, inside)], inside);
}

struct Line { a: vec4f, b: vec4f, c: vec4f, d: vec4f, e: vec4f, f: vec4f }

fn line(image: u32, row: u32, column: u32, c: u32) -> Line {
    return Line(load(image, row, column, c), load(image, row, column + 1u, c), load(image, row, column + 2u, c),
                load(image, row, column + 3u, c), load(image, row, column + 4u, c), load(image, row, column + 5u, c));
}

fn along(acc: Row, v: Line, t: Taps) -> Row {
    return Row(three(acc.a, t, v.a, v.b, v.c), three(acc.b, t, v.b, v.c, v.d),
               three(acc.c, t, v.c, v.d, v.e), three(acc.d, t, v.d, v.e, v.f));
}

fn three(acc: vec4f, t: Taps, a: vec4f, b: vec4f, c: vec4f) -> vec4f {
    return through(through(through(acc, t.w0, a), t.w1, b), t.w2, c);
}

// At stride 2 a row of four reads nine columns.
struct Wide { left: Line, right: Line }

fn wide(image: u32, row: u32, column: u32, c: u32) -> Wide {
    let last = load(image, row, column + 8u, c);
    return Wide(line(image, row, column, c), Line(load(image, row, column + 6u, c), load(image, row, column + 7u, c),
                                                  last, last, last, last));
}

fn along_two(acc: Row, v: Wide, t: Taps) -> Row {
    return Row(three(acc.a, t, v.left.a, v.left.b, v.left.c), three(acc.b, t, v.left.c, v.left.d, v.left.e),
               three(acc.c, t, v.left.e, v.left.f, v.right.a), three(acc.d, t, v.right.a, v.right.b, v.right.c));
}

fn convolve_by_two(s: Site, block: u32, lane: u32) -> Tile {
    var low_sums = no_sums();
    var high_sums = no_sums();
    let row = s.row * 2u - dims.padding_h;
    let column = s.column * 2u - dims.padding_w;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        for (var p = 0u; p < 3u; p++) {
            // Row after row: together their columns would take 144 registers.
            let own = fetch(c, p, block, lane);
            let v0 = wide(s.image, row + p, column, c);
            low_sums.r0 = along_two(low_sums.r0, v0, low(own));
            if BLOCKS == 2u { high_sums.r0 = along_two(high_sums.r0, v0, high(own)); }
            let v1 = wide(s.image, row + p + 2u, column, c);
            low_sums.r1 = along_two(low_sums.r1, v1, low(own));
            if BLOCKS == 2u { high_sums.r1 = along_two(high_sums.r1, v1, high(own)); }
            let v2 = wide(s.image, row + p + 4u, column, c);
            low_sums.r2 = along_two(low_sums.r2, v2, low(own));
            if BLOCKS == 2u { high_sums.r2 = along_two(high_sums.r2, v2, high(own)); }
            let v3 = wide(s.image, row + p + 6u, column, c);
            low_sums.r3 = along_two(low_sums.r3, v3, low(own));
            if BLOCKS == 2u { high_sums.r3 = along_two(high_sums.r3, v3, high(own)); }
        }
    }
    return Tile(low_sums, high_sums);
}

// A row of x for a 1x1 kernel.
fn spaced(image: u32, row: u32, column: u32, c: u32) -> Row {
    let s = dims.stride;
    return Row(load(image, row, column, c), load(image, row, column + s, c),
               load(image, row, column + 2u * s, c), load(image, row, column + 3u * s, c));
}

fn convolve_point(s: Site, block: u32, lane: u32) -> Tile {
    var low_sums = no_sums();
    var high_sums = no_sums();
    let row = s.row * dims.stride;
    let column = s.column * dims.stride;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        let own = fetch_point(c, block, lane);
        let v0 = spaced(s.image, row, column, c);
        low_sums.r0 = point(low_sums.r0, v0, tap(own, 0u));
        if BLOCKS == 2u { high_sums.r0 = point(high_sums.r0, v0, tap(own, 1u)); }
        let v1 = spaced(s.image, row + dims.stride, column, c);
        low_sums.r1 = point(low_sums.r1, v1, tap(own, 0u));
        if BLOCKS == 2u { high_sums.r1 = point(high_sums.r1, v1, tap(own, 1u)); }
        let v2 = spaced(s.image, row + 2u * dims.stride, column, c);
        low_sums.r2 = point(low_sums.r2, v2, tap(own, 0u));
        if BLOCKS == 2u { high_sums.r2 = point(high_sums.r2, v2, tap(own, 1u)); }
        let v3 = spaced(s.image, row + 3u * dims.stride, column, c);
        low_sums.r3 = point(low_sums.r3, v3, tap(own, 0u));
        if BLOCKS == 2u { high_sums.r3 = point(high_sums.r3, v3, tap(own, 1u)); }
    }
    return Tile(low_sums, high_sums);
}

// dx of a 3x3 kernel at stride 2: of four positions in a square, one gets one tap, two get two, and one gets four.
// Where the padding is 1 the tile's first row is of the first kind; where it is 0 the first tile begins a row above dx.
struct Triple { a: vec4f, b: vec4f, c: vec4f }

fn triple(image: u32, row: u32, column: u32, c: u32) -> Triple {
    return Triple(load(image, row, column, c), load(image, row, column + 1u, c), load(image, row, column + 2u, c));
}

// The taps are in reverse.
fn spread_row(acc: Row, v: Triple, t: Taps) -> Row {
    return Row(through(acc.a, t.w1, v.a), through(through(acc.b, t.w0, v.a), t.w2, v.b),
               through(acc.c, t.w1, v.b), through(through(acc.d, t.w0, v.b), t.w2, v.c));
}

fn spread_sums(acc: Sums, v0: Triple, v1: Triple, v2: Triple, t0: Taps, t1: Taps, t2: Taps) -> Sums {
    return Sums(spread_row(acc.r0, v0, t1), spread_row(spread_row(acc.r1, v0, t0), v1, t2),
                spread_row(acc.r2, v1, t1), spread_row(spread_row(acc.r3, v1, t0), v2, t2));
}

fn convolve_spread(s: Site, block: u32, lane: u32) -> Tile {
    var low_sums = no_sums();
    var high_sums = no_sums();
    let row = s.row / 2u + dims.padding_h - 1u;
    let column = s.column / 2u + dims.padding_w - 1u;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        let v0 = triple(s.image, row, column, c);
        let v1 = triple(s.image, row + 1u, column, c);
        let v2 = triple(s.image, row + 2u, column, c);
        let t0 = fetch(c, 0u, block, lane);
        let t1 = fetch(c, 1u, block, lane);
        let t2 = fetch(c, 2u, block, lane);
        low_sums = spread_sums(low_sums, v0, v1, v2, low(t0), low(t1), low(t2));
        if BLOCKS == 2u { high_sums = spread_sums(high_sums, v0, v1, v2, high(t0), high(t1), high(t2)); }
    }
    return Tile(low_sums, high_sums);
}

// dx of a 1x1 kernel at stride 2: every second position of every second row, and 0 elsewhere.
fn convolve_point_spread(s: Site, block: u32, lane: u32) -> Tile {
    var low_sums = no_sums();
    var high_sums = no_sums();
    let row = s.row / 2u;
    let column = s.column / 2u;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        let own = fetch_point(c, block, lane);
        let v0 = Row(load(s.image, row, column, c), vec4f(), load(s.image, row, column + 1u, c), vec4f());
        let v2 = Row(load(s.image, row + 1u, column, c), vec4f(), load(s.image, row + 1u, column + 1u, c), vec4f());
        low_sums.r0 = point(low_sums.r0, v0, tap(own, 0u));
        low_sums.r2 = point(low_sums.r2, v2, tap(own, 0u));
        if BLOCKS == 2u {
            high_sums.r0 = point(high_sums.r0, v0, tap(own, 1u));
            high_sums.r2 = point(high_sums.r2, v2, tap(own, 1u));
        }
    }
    return Tile(low_sums, high_sums);
}

// What a workgroup owns of z or dx: the group of tiles, and its first block. The blocks of one group are neighbours.
struct Area { group: u32, block: u32, groups: u32 }

fn area(group: u32) -> Area {
    let columns = (blocks(dims.c_out) + BLOCKS - 1u) / BLOCKS;
    return Area(group / columns, group % columns * BLOCKS, groups_of(batch.count * dims.tiles_h * dims.tiles_w));
}

// z, and the workgroup's part of each channel's statistics.
fn measure(a: Area, s: Site, local: u32, t: Tile) {
    measure_block(a, s, local, a.block, t.low);
    if BLOCKS == 2u { measure_block(a, s, local, a.block + 1u, t.high); }
}

fn measure_block(a: Area, s: Site, local: u32, block: u32, sums: Sums) {
    let some = s.some && block < blocks(dims.c_out);
    let rows = select(0u, min(4u, dims.h_out - s.row), some);
    let columns = min(4u, dims.w_out - s.column);
    // First, so that the statistics have the registers.
    if some {
        let at = ((s.image * dims.h_out + s.row) * dims.w_out + s.column) * blocks(dims.c_out) + block;
        let line = dims.w_out * blocks(dims.c_out);
        if rows > 0u { store_row(at, columns, sums.r0); }
        if rows > 1u { store_row(at + line, columns, sums.r1); }
        if rows > 2u { store_row(at + 2u * line, columns, sums.r2); }
        if rows > 3u { store_row(at + 3u * line, columns, sums.r3); }
    }
    let r0 = kept(sums.r0, columns, rows > 0u);
    let r1 = kept(sums.r1, columns, rows > 1u);
    let r2 = kept(sums.r2, columns, rows > 2u);
    let r3 = kept(sums.r3, columns, rows > 3u);
    let count = f32(rows * columns);
    let mean = (total(r0) + total(r1) + total(r2) + total(r3)) / max(count, 1.0);
    let d0 = kept(minus(r0, mean), columns, rows > 0u);
    let d1 = kept(minus(r1, mean), columns, rows > 1u);
    let d2 = kept(minus(r2, mean), columns, rows > 2u);
    let d3 = kept(minus(r3, mean), columns, rows > 3u);
    // The distances add up to what rounding did to the mean.
    let away = total(d0) + total(d1) + total(d2) + total(d3);
    let off = away / max(count, 1.0);
    let squares = square(d0) + square(d1) + square(d2) + square(d3) - away * off;
    let joined = join_group(Part(mean + off, squares, vec4f(count)), local);
    if local == 0u && block < blocks(dims.c_out) { parts[block * a.groups + a.group] = joined; }
}

fn kept(r: Row, columns: u32, some: bool) -> Row {
    return Row(select(vec4f(), r.a, some && columns > 0u), select(vec4f(), r.b, some && columns > 1u),
               select(vec4f(), r.c, some && columns > 2u), select(vec4f(), r.d, some && columns > 3u));
}

fn total(r: Row) -> vec4f { return (r.a + r.b) + (r.c + r.d); }
fn minus(r: Row, mean: vec4f) -> Row { return Row(r.a - mean, r.b - mean, r.c - mean, r.d - mean); }
fn square(r: Row) -> vec4f { return (r.a * r.a + r.b * r.b) + (r.c * r.c + r.d * r.d); }

fn store_row(at: u32, columns: u32, r: Row) {
    let step = blocks(dims.c_out);
    if columns > 0u { y[at] = r.a; }
    if columns > 1u { y[at + step] = r.b; }
    if columns > 2u { y[at + 2u * step] = r.c; }
    if columns > 3u { y[at + 3u * step] = r.d; }
}

// y, with all that follows the convolution.
fn answer(a: Area, s: Site, t: Tile) {
    answer_block(s, a.block, t.low);
    if BLOCKS == 2u { answer_block(s, a.block + 1u, t.high); }
}

fn answer_block(s: Site, block: u32, sums: Sums) {
    if !s.some || block >= blocks(dims.c_out) { return; }
    let own = table[block];
    if dims.pools == 1u {
        answer_window(s, block, 0u, own, sums.r0, sums.r1);
        answer_window(s, block, 1u, own, sums.r2, sums.r3);
        return;
    }
    answer_row(s, block, 0u, own, sums.r0);
    answer_row(s, block, 1u, own, sums.r1);
    answer_row(s, block, 2u, own, sums.r2);
    answer_row(s, block, 3u, own, sums.r3);
}

fn answer_row(s: Site, block: u32, i: u32, own: Channels, r: Row) {
    answer_one(s.image, s.row + i, s.column, block, own, r.a);
    answer_one(s.image, s.row + i, s.column + 1u, block, own, r.b);
    answer_one(s.image, s.row + i, s.column + 2u, block, own, r.c);
    answer_one(s.image, s.row + i, s.column + 3u, block, own, r.d);
}

fn answer_one(image: u32, row: u32, column: u32, block: u32, own: Channels, z: vec4f) {
    if row >= dims.h_out || column >= dims.w_out { return; }
    let at = ((image * dims.h_out + row) * dims.w_out + column) * blocks(dims.c_out) + block;
    var v = normed(own, z);
    if dims.adds == 1u { v += skip[at]; }
    if dims.relu == 1u { v = rectified(v); }
    y[at] = v;
}

// Two windows of 2x2 positions, side by side.
fn answer_window(s: Site, block: u32, i: u32, own: Channels, top: Row, bottom: Row) {
    let row = s.row / 2u + i;
    let column = s.column / 2u;
    let plane = vec2u(dims.h_out, dims.w_out) / 2u;
    if row >= plane.x { return; }
    let at = ((s.image * plane.x + row) * plane.y + column) * blocks(dims.c_out) + block;
    let left = window(own, top.a, top.b, bottom.a, bottom.b);
    let right = window(own, top.c, top.d, bottom.c, bottom.d);
    if column < plane.y { y[at] = largest(left); }
    if column + 1u < plane.y { y[at + blocks(dims.c_out)] = largest(right); }
}

// dx, added to what another reader of the tensor gave.
fn give(a: Area, s: Site, t: Tile) {
    give_block(s, a.block, t.low);
    if BLOCKS == 2u { give_block(s, a.block + 1u, t.high); }
}

fn give_block(s: Site, block: u32, sums: Sums) {
    if !s.some || block >= blocks(dims.c_out) { return; }
    give_row(s, block, 0u, sums.r0);
    give_row(s, block, 1u, sums.r1);
    give_row(s, block, 2u, sums.r2);
    give_row(s, block, 3u, sums.r3);
}

fn give_row(s: Site, block: u32, i: u32, r: Row) {
    give_one(s.image, s.row + i, s.column, block, r.a);
    give_one(s.image, s.row + i, s.column + 1u, block, r.b);
    give_one(s.image, s.row + i, s.column + 2u, block, r.c);
    give_one(s.image, s.row + i, s.column + 3u, block, r.d);
}

fn give_one(image: u32, row: u32, column: u32, block: u32, v: vec4f) {
    if row >= dims.h_out || column >= dims.w_out { return; }
    let at = ((image * dims.h_out + row) * dims.w_out + column) * blocks(dims.c_out) + block;
    var sum = v;
    if dims.adds == 1u { sum += before[at]; }
    y[at] = sum;
}

// The first tile of a plane begins above and left of it where the padding of a spread convolution is 0.
fn shifted(s: Site) -> Site {
    return Site(s.image, s.row + dims.padding_h - 1u, s.column + dims.padding_w - 1u, s.some);
}

@compute @workgroup_size(WORKGROUP)
fn measured(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    measure(a, s, local, convolve(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn measured_by_two(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    measure(a, s, local, convolve_by_two(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn measured_point(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    measure(a, s, local, convolve_point(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn answered(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    answer(a, s, convolve(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn answered_by_two(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    answer(a, s, convolve_by_two(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn answered_point(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    answer(a, s, convolve_point(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn gradient(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    give(a, s, convolve(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn gradient_by_two(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    give(a, shifted(s), convolve_spread(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn gradient_point(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    give(a, s, convolve_point(s, a.block, local));
}

@compute @workgroup_size(WORKGROUP)
fn gradient_point_by_two(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups));
    if a.group >= a.groups { return; }
    let s = site(a.group * WORKGROUP + local);
    give(a, s, convolve_point_spread(s, a.block, local));
}

// The weight's gradient: three taps of a row, four input channels by four output channels each.
fn no_taps() -> Taps { return Taps(mat4x4f(), mat4x4f(), mat4x4f()); }

fn outer(acc: mat4x4f, v: vec4f, x: vec4f) -> mat4x4f {
    return mat4x4f(fma(v, vec4f(x.x), acc[0]), fma(v, vec4f(x.y), acc[1]),
                   fma(v, vec4f(x.z), acc[2]), fma(v, vec4f(x.w), acc[3]));
}

fn correlate(acc: Taps, v: vec4f, x: Triple) -> Taps {
    return Taps(outer(acc.w0, v, x.a), outer(acc.w1, v, x.b), outer(acc.w2, v, x.c));
}

// The rows of a split, image after image, as far as the batch goes.
fn split_rows(split: u32) -> vec2u {
    return min(vec2u(split, split + 1u) * dims.split, vec2u(batch.count * dims.h_out));
}

// A row of x, of one block of channels: where it begins, and whether there is such a row.
struct InputRow { first: u32, inside: bool }

fn input_row(image: u32, row: u32, c: u32) -> InputRow {
    return InputRow((image * dims.h_in + row) * dims.w_in * blocks(dims.c_in) + c, row < dims.h_in);
}

fn load_column(row: InputRow, column: u32) -> vec4f {
    let inside = row.inside & (column < dims.w_in);
    return select(vec4f(), x[select(0u, row.first + column * blocks(dims.c_in), inside)], inside);
}

// What follows behind three columns: the next three, one or two further.
fn next_columns(v: Triple, row: InputRow, column: u32) -> Triple {
    if dims.stride == 1u { return Triple(v.b, v.c, load_column(row, column + 2u)); }
    return Triple(v.c, load_column(row, column + 1u), load_column(row, column + 2u));
}

// The columns before the first three, of which `next_columns` makes these.
fn first_columns(row: InputRow, column: u32) -> Triple {
    let first = load_column(row, column);
    return Triple(vec4f(), select(vec4f(), first, dims.stride == 1u),
                  select(first, load_column(row, column + 1u), dims.stride == 1u));
}

fn stride_of_split() -> u32 { return dims.c_out * (dims.c_in * 9u + dims.bias); }

fn store_taps(split: u32, block: u32, c: u32, p: u32, t: Taps) {
    let at = split * stride_of_split() + (block * 4u * dims.c_in + c * 4u) * 9u + p * 3u;
    store_inputs(at, 9u, c, t.w0);
    store_inputs(at + 1u, 9u, c, t.w1);
    store_inputs(at + 2u, 9u, c, t.w2);
}

// Those of one tap, of the input channels 4c to 4c+3 that there are.
fn store_inputs(at: u32, count: u32, c: u32, t: mat4x4f) {
    let left = dims.c_in - c * 4u;
    store_outputs(at, dims.c_in * count, t[0]);
    if left > 1u { store_outputs(at + count, dims.c_in * count, t[1]); }
    if left > 2u { store_outputs(at + 2u * count, dims.c_in * count, t[2]); }
    if left > 3u { store_outputs(at + 3u * count, dims.c_in * count, t[3]); }
}

fn store_outputs(at: u32, step: u32, v: vec4f) {
    partials[at] = v.x;
    partials[at + step] = v.y;
    partials[at + 2u * step] = v.z;
    partials[at + 3u * step] = v.w;
}

fn store_bias(start: u32, block: u32, v: vec4f) {
    if dims.bias == 1u { store_outputs(start + block * 4u, 1u, v); }
}

// Of a 1x1 kernel. A thread owns a block of output channels, and one of input channels.
@compute @workgroup_size(WORKGROUP)
fn weight_point(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let c = at % blocks(dims.c_in);
    let count = dims.c_out / 4u;
    let block = at / blocks(dims.c_in) % count;
    let split = at / (blocks(dims.c_in) * count);
    if split >= dims.splits { return; }
    let rows = split_rows(split);
    var acc = mat4x4f();
    var sum = vec4f();
    for (var line = rows.x; line < rows.y; line++) {
        let row = input_row(line / dims.h_out, line % dims.h_out * dims.stride, c);
        var j = 0u;
        var at_dz = line * dims.w_out * count + block;
        // Four positions at a time: their loads are on the way together.
        for (; j + 4u <= dims.w_out; j += 4u) {
            let column = j * dims.stride;
            let x0 = load_column(row, column);
            let x1 = load_column(row, column + dims.stride);
            let x2 = load_column(row, column + 2u * dims.stride);
            let x3 = load_column(row, column + 3u * dims.stride);
            let d0 = dz[at_dz];
            let d1 = dz[at_dz + count];
            let d2 = dz[at_dz + 2u * count];
            let d3 = dz[at_dz + 3u * count];
            acc = outer(outer(outer(outer(acc, d0, x0), d1, x1), d2, x2), d3, x3);
            sum = sum + d0 + d1 + d2 + d3;
            at_dz += 4u * count;
        }
        for (; j < dims.w_out; j++) {
            acc = outer(acc, dz[at_dz], load_column(row, j * dims.stride));
            sum += dz[at_dz];
            at_dz += count;
        }
    }
    let start = split * dims.c_out * (dims.c_in + dims.bias);
    store_inputs(start + block * 4u * dims.c_in + c * 4u, 1u, c, acc);
    if c == 0u { store_bias(start + dims.c_out * dims.c_in, block, sum); }
}
