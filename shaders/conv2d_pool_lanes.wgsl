// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), for devices whose subgroups
// are LANES wide: each lane loads some columns, and a shuffle hands them to all of them.
//
// For y and dx, a subgroup owns ROWS rows of COLUMNS windows times LANES blocks of four channels, and a lane all of
// these windows times its block. For dw and db, it owns LANES blocks of four output channels times 4 (or 1) input
// channels times 9 taps. First layers, one channel at a time: LANES windows instead of rows, and a lane loads the patch
// of one. A software driver takes as long for a load as for a dozen multiply-adds, the same for all lanes or not, and
// hardly longer for a shuffle than for one.

const LANES = 8u;

// A patch that lane `source` has loaded.
fn patch_of(source: u32, p: Patch) -> Patch {
    return Patch(subgroupShuffle(p.r0, source), subgroupShuffle(p.r1, source),
                 subgroupShuffle(p.r2, source), subgroupShuffle(p.r3, source));
}

// The windows of a tile, for a lane's block.
struct Accumulators { a: Window, b: Window, c: Window, d: Window, e: Window, f: Window, g: Window, h: Window }

fn all(v: Window) -> Accumulators { return Accumulators(v, v, v, v, v, v, v, v); }

// What a subgroup owns: windows from `first` on, and blocks from `base` on, one a lane. No lane's number goes into it:
// a shuffle must be reached by all lanes or none, and a compiler of WGSL sees that of a struct only if it holds of all
// of its fields.
struct Tile { first: u32, base: u32, count: u32, some: bool }

fn tile(subgroup: u32, channels: u32, windows: u32) -> Tile {
    let count = blocks(channels);
    let groups = (count + LANES - 1u) / LANES;
    let first = subgroup / groups * LANES;
    return Tile(first, subgroup % groups * LANES, count, first < batch.count * windows);
}

fn convolve_tile(acc: Accumulators, mine: Patch, w: Taps) -> Accumulators {
    return Accumulators(
        convolve(acc.a, patch_of(0u, mine), w), convolve(acc.b, patch_of(1u, mine), w),
        convolve(acc.c, patch_of(2u, mine), w), convolve(acc.d, patch_of(3u, mine), w),
        convolve(acc.e, patch_of(4u, mine), w), convolve(acc.f, patch_of(5u, mine), w),
        convolve(acc.g, patch_of(6u, mine), w), convolve(acc.h, patch_of(7u, mine), w),
    );
}

fn pool_tile(t: Tile, block: u32, acc: Accumulators) {
    let image0 = image_of(t.first);
    let image1 = image_after(image0, t.first + 1u);
    let image2 = image_after(image1, t.first + 2u);
    let image3 = image_after(image2, t.first + 3u);
    let image4 = image_after(image3, t.first + 4u);
    let image5 = image_after(image4, t.first + 5u);
    let image6 = image_after(image5, t.first + 6u);
    let image7 = image_after(image6, t.first + 7u);
    pool(t.first, image0, block, acc.a);
    pool(t.first + 1u, image1, block, acc.b);
    pool(t.first + 2u, image2, block, acc.c);
    pool(t.first + 3u, image3, block, acc.d);
    pool(t.first + 4u, image4, block, acc.e);
    pool(t.first + 5u, image5, block, acc.f);
    pool(t.first + 6u, image6, block, acc.g);
    pool(t.first + 7u, image7, block, acc.h);
}

// The columns of a row of COLUMNS windows, two a lane: columns 2 k and 2 k + 1 of the tile, in the four rows of the
// windows' patches, four channels each. Window k takes its left half from lane k, its right half from the next.
struct Columns { a0: vec4f, b0: vec4f, a1: vec4f, b1: vec4f, a2: vec4f, b2: vec4f, a3: vec4f, b3: vec4f }

const COLUMNS = 7u;

fn columns_of(source: u32, c: Columns) -> Columns {
    return Columns(subgroupShuffle(c.a0, source), subgroupShuffle(c.b0, source),
                   subgroupShuffle(c.a1, source), subgroupShuffle(c.b1, source),
                   subgroupShuffle(c.a2, source), subgroupShuffle(c.b2, source),
                   subgroupShuffle(c.a3, source), subgroupShuffle(c.b3, source));
}

fn patches(l: Columns, r: Columns) -> Patches {
    return Patches(transpose(mat4x4f(l.a0, l.b0, r.a0, r.b0)), transpose(mat4x4f(l.a1, l.b1, r.a1, r.b1)),
                   transpose(mat4x4f(l.a2, l.b2, r.a2, r.b2)), transpose(mat4x4f(l.a3, l.b3, r.a3, r.b3)));
}

// A row of windows, for a lane's block.
struct Row { a: Window, b: Window, c: Window, d: Window, e: Window, f: Window, g: Window }

fn row_of_windows(v: Window) -> Row { return Row(v, v, v, v, v, v, v); }

// The taps of four channels.
struct Taps4 { w0: Taps, w1: Taps, w2: Taps, w3: Taps }

fn load_taps4(c: u32, count: u32, block: u32) -> Taps4 {
    return Taps4(load_taps(c, count, block), load_taps(c + 1u, count, block),
                 load_taps(c + 2u, count, block), load_taps(c + 3u, count, block));
}

fn through(acc: Window, l: Columns, r: Columns, w: Taps4) -> Window {
    return convolve4(acc, patches(l, r), w.w0, w.w1, w.w2, w.w3);
}

fn convolve_row(acc: Row, mine: Columns, w: Taps4) -> Row {
    let c0 = columns_of(0u, mine);
    let c1 = columns_of(1u, mine);
    let c2 = columns_of(2u, mine);
    let c3 = columns_of(3u, mine);
    let c4 = columns_of(4u, mine);
    let c5 = columns_of(5u, mine);
    let c6 = columns_of(6u, mine);
    let c7 = columns_of(7u, mine);
    return Row(through(acc.a, c0, c1, w), through(acc.b, c1, c2, w), through(acc.c, c2, c3, w), through(acc.d, c3, c4, w),
               through(acc.e, c4, c5, w), through(acc.f, c5, c6, w), through(acc.g, c6, c7, w));
}

// What a subgroup owns of y or dx: ROWS rows of windows, image after image, from `row` on; COLUMNS windows of them from
// `column` on; LANES blocks from `base` on, one a lane. As in a Tile, nothing of it is a lane's.
struct Strip { row: u32, column: u32, base: u32, count: u32, rows: u32 }

const ROWS = 2u;

// `plane` are an image's windows.
fn strip(subgroup: u32, channels: u32, plane: vec2u) -> Strip {
    let count = blocks(channels);
    let groups = lane_groups(count);
    let across = (plane.y + COLUMNS - 1u) / COLUMNS;
    let at = subgroup / groups;
    return Strip(at / across * ROWS, at % across * COLUMNS, subgroup % groups * LANES, count, batch.count * plane.x);
}

// Where a lane's columns are, row by row, in block 0.
struct ColumnSite { a: vec4u, b: vec4u }

fn column_site(row: u32, column: u32) -> ColumnSite {
    let position = dims.c_in / 4u;
    let start = row / dims.h_out * dims.h_in * dims.w_in * position;
    let rows = row % dims.h_out * 2u - dims.padding_h + vec4u(0u, 1u, 2u, 3u);
    let first = column * 2u - dims.padding_w;
    return ColumnSite(column_at(start, rows, first), column_at(start, rows, first + 1u));
}

fn column_at(start: u32, rows: vec4u, column: u32) -> vec4u {
    let inside = (rows < vec4u(dims.h_in)) & vec4<bool>(column < dims.w_in);
    return select(vec4u(OUTSIDE), start + (rows * dims.w_in + column) * (dims.c_in / 4u), inside);
}

fn load_columns(s: ColumnSite, block: u32) -> Columns {
    return Columns(load4(s.a.x, block), load4(s.b.x, block), load4(s.a.y, block), load4(s.b.y, block),
                   load4(s.a.z, block), load4(s.b.z, block), load4(s.a.w, block), load4(s.b.w, block));
}

fn pool_row(s: Strip, block: u32, row: u32, v: Row) {
    if row >= s.rows { return; }
    let image = row / dims.h_out;
    pool_column(s, image, block, row, 0u, v.a);
    pool_column(s, image, block, row, 1u, v.b);
    pool_column(s, image, block, row, 2u, v.c);
    pool_column(s, image, block, row, 3u, v.d);
    pool_column(s, image, block, row, 4u, v.e);
    pool_column(s, image, block, row, 5u, v.f);
    pool_column(s, image, block, row, 6u, v.g);
}

fn pool_column(s: Strip, image: u32, block: u32, row: u32, column: u32, v: Window) {
    if s.column + column < dims.w_out { pool(row * dims.w_out + s.column + column, image, block, v); }
}

// From channels last.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let s = strip(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, dims.c_out, vec2u(dims.h_out, dims.w_out));
    if s.row >= s.rows { return; }
    let block = s.base + lane;
    let some_block = min(block, s.count - 1u);
    let site0 = column_site(min(s.row + 0u, s.rows - 1u), s.column + lane);
    let site1 = column_site(min(s.row + 1u, s.rows - 1u), s.column + lane);
    var acc0 = row_of_windows(bias(block));
    var acc1 = row_of_windows(bias(block));
    for (var c = 0u; c < dims.c_in / 4u; c++) {
        let w = load_taps4(c * 4u, s.count, some_block);
        acc0 = convolve_row(acc0, load_columns(site0, c), w);
        acc1 = convolve_row(acc1, load_columns(site1, c), w);
    }
    pool_row(s, block, s.row + 0u, acc0);
    pool_row(s, block, s.row + 1u, acc1);
}

// From any strides, channel by channel.
@compute @workgroup_size(WORKGROUP)
fn forward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, dims.c_out, windows);
    if !t.some { return; }
    let site = site_planes(min(t.first + lane, batch.count * windows - 1u));
    let block = t.base + lane;
    let some_block = min(block, t.count - 1u);
    var acc = all(bias(block));
    for (var c = 0u; c < dims.c_in; c++) {
        acc = convolve_tile(acc, load_patch(site, c), load_taps(c, t.count, some_block));
    }
    pool_tile(t, block, acc);
}

// The first layer, from the data set's bytes.
@compute @workgroup_size(WORKGROUP)
fn forward_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, dims.c_out, windows);
    if !t.some { return; }
    let site = pixels(min(t.first + lane, batch.count * windows - 1u));
    let block = t.base + lane;
    let some_block = min(block, t.count - 1u);
    var acc = all(bias(block));
    for (var c = 0u; c < dims.c_in; c++) {
        acc = convolve_tile(acc, load_pixels(site, c), load_taps(c, t.count, some_block));
    }
    pool_tile(t, block, acc);
}

// Both gradients of a block that is not the first layer.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let own = share(group, groups, groups_of(dims.splits * (dims.c_in / 4u) * lane_groups(dims.c_out / 4u) * LANES));
    if own.first {
        weight_part(own.at * (WORKGROUP / LANES) + subgroup, lane);
    } else {
        input_tile(own.at * (WORKGROUP / LANES) + subgroup, lane);
    }
}

// The same for any strides.
@compute @workgroup_size(WORKGROUP)
fn backward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let own = share(group, groups, groups_of(dims.splits * dims.c_in * lane_groups(dims.c_out / 4u) * LANES));
    if own.first {
        weight_part_planes(own.at * (WORKGROUP / LANES) + subgroup, lane);
    } else {
        input_tile(own.at * (WORKGROUP / LANES) + subgroup, lane);
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                          @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    weight_part_planes(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane);
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    weight_part_bytes(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane);
}

fn lane_groups(blocks: u32) -> u32 { return (blocks + LANES - 1u) / LANES; }

// dx for a padding of 1. Its positions are owned in 2x2 windows too; an odd row or column has a window of its own.
fn input_tile(subgroup: u32, lane: u32) {
    let plane = vec2u(dims.h_in + 1u, dims.w_in + 1u) / 2u;
    let s = strip(subgroup, dims.c_in, plane);
    if s.row >= s.rows { return; }
    let block = s.base + lane;
    let some_block = min(block, s.count - 1u);
    let site0 = gradient_site(s.row, s.column + lane, plane.x);
    let site1 = gradient_site(min(s.row + 1u, s.rows - 1u), s.column + lane, plane.x);
    let zero = Window(vec4f(), vec4f(), vec4f(), vec4f());
    var acc0 = row_of_windows(zero);
    var acc1 = row_of_windows(zero);
    for (var o = 0u; o < dims.c_out / 4u; o++) {
        let w = load_taps4(o * 4u, s.count, some_block);
        acc0 = convolve_row(acc0, load_gradients(site0, o), w);
        acc1 = convolve_row(acc1, load_gradients(site1, o), w);
    }
    store_row(s, block, s.row, plane, acc0);
    store_row(s, block, s.row + 1u, plane, acc1);
}

// The windows of y that a lane's two columns of dv come from: those of the column before and of its own, in three rows.
struct GradientSite { before: vec3u, own: vec3u }

fn gradient_site(row: u32, column: u32, plane_rows: u32) -> GradientSite {
    let start = row / plane_rows * dims.h_out * dims.w_out;
    let rows = row % plane_rows + vec3u(0xffffffffu, 0u, 1u);
    return GradientSite(gradient_at(start, rows, column - 1u), gradient_at(start, rows, column));
}

fn gradient_at(start: u32, rows: vec3u, column: u32) -> vec3u {
    let inside = (rows < vec3u(dims.h_out)) & vec3<bool>(column < dims.w_out);
    return select(vec3u(OUTSIDE), (start + rows * dims.w_out + column) * (dims.c_out / 4u), inside);
}

fn load_gradients(s: GradientSite, block: u32) -> Columns {
    let top = load_window(s.before.x, block);
    let middle = load_window(s.before.y, block);
    let bottom = load_window(s.before.z, block);
    let own_top = load_window(s.own.x, block);
    let own_middle = load_window(s.own.y, block);
    let own_bottom = load_window(s.own.z, block);
    return Columns(top.v11, own_top.v10, middle.v01, own_middle.v00, middle.v11, own_middle.v10, bottom.v01, own_bottom.v00);
}

fn store_row(s: Strip, block: u32, row: u32, plane: vec2u, v: Row) {
    if row >= s.rows { return; }
    store_column(s, block, row, 0u, plane, v.a);
    store_column(s, block, row, 1u, plane, v.b);
    store_column(s, block, row, 2u, plane, v.c);
    store_column(s, block, row, 3u, plane, v.d);
    store_column(s, block, row, 4u, plane, v.e);
    store_column(s, block, row, 5u, plane, v.f);
    store_column(s, block, row, 6u, plane, v.g);
}

fn store_column(s: Strip, block: u32, row: u32, column: u32, plane: vec2u, v: Window) {
    if s.column + column < plane.y { store_window(row * plane.y + s.column + column, plane, block, v); }
}

// Partial sums of dw and db over one split, from channels last. A lane owns a block of output channels.
fn weight_part(subgroup: u32, lane: u32) {
    let count_in = dims.c_in / 4u;
    let count_out = dims.c_out / 4u;
    let c = subgroup % count_in;
    let o = subgroup / count_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (count_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var a0 = no_taps();
    var a1 = no_taps();
    var a2 = no_taps();
    var a3 = no_taps();
    var sum = vec4f();
    // Strips end with their row.
    for (var first = range.x; first < range.y; first += min(COLUMNS, dims.w_out - first % dims.w_out)) {
        let column = first % dims.w_out;
        let mine = load_columns(column_site(first / dims.w_out, column + lane), c);
        for (var i = 0u; i < min(COLUMNS, dims.w_out - column); i++) {
            let p = patches(columns_of(i, mine), columns_of(i + 1u, mine));
            let v = load_window((first + i) * count_out, block);
            a0 = correlate(a0, v, Patch(p.r0[0], p.r1[0], p.r2[0], p.r3[0]));
            a1 = correlate(a1, v, Patch(p.r0[1], p.r1[1], p.r2[1], p.r3[1]));
            a2 = correlate(a2, v, Patch(p.r0[2], p.r1[2], p.r2[2], p.r3[2]));
            a3 = correlate(a3, v, Patch(p.r0[3], p.r1[3], p.r2[3], p.r3[3]));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c * 4u, a0);
    store_taps(split, o * 4u, c * 4u + 1u, a1);
    store_taps(split, o * 4u, c * 4u + 2u, a2);
    store_taps(split, o * 4u, c * 4u + 3u, a3);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from any strides; the subgroup owns one input channel.
fn weight_part_planes(subgroup: u32, lane: u32) {
    let count_out = dims.c_out / 4u;
    let c = subgroup % dims.c_in;
    let o = subgroup / dims.c_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (dims.c_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += LANES) {
        let mine = load_patch(site_planes(min(first + lane, range.y - 1u)), c);
        for (var i = 0u; i < min(LANES, range.y - first); i++) {
            let v = load_window((first + i) * count_out, block);
            acc = correlate(acc, v, patch_of(i, mine));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from bytes.
fn weight_part_bytes(subgroup: u32, lane: u32) {
    let count_out = dims.c_out / 4u;
    let c = subgroup % dims.c_in;
    let o = subgroup / dims.c_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (dims.c_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += LANES) {
        let mine = load_pixels(pixels(min(first + lane, range.y - 1u)), c);
        for (var i = 0u; i < min(LANES, range.y - first); i++) {
            let v = load_window((first + i) * count_out, block);
            acc = correlate(acc, v, patch_of(i, mine));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}
