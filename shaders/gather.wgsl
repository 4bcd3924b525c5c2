// The next batch, gathered from the data set's bytes in the epoch's order, and normalised:
//
//   x[n,c,h,w] = byte * scale[c] + offset[c]         of image order[first + n]
//   targets[n] = labels[order[first + n]]
//
// One thread owns one pixel; the first pixel's thread also fetches the label. Where the kernel above reads the bytes
// itself, `labels_only` is left to do, one thread a label.

struct Gather {
    channels: u32,
    plane: u32,     // height * width
    width: u32,
    shift: u32,     // augmentation: by up to so many pixels each way,
    reflect: u32,   // what is beyond the edge is reflected (1) or black (0),
    flip: u32,      // half of the images are mirrored (1),
    cutout: u32,    // the side of the square that is grey
    affine: u32,    // images are turned and scaled (1),
    toned: u32,     // made brighter or darker (1),
    scale: i32,     // by up to such shares, in 2^-14; that of brightness times 255
    brightness: i32,
    contrast: i32,
}
@group(0) @binding(1) var<uniform> dims: Gather;
@group(0) @binding(2) var<storage, read> images: array<u32>;          // [all images, channels, height, width], four bytes a word
@group(0) @binding(3) var<storage, read> labels: array<u32>;          // [all images]
@group(0) @binding(4) var<storage, read> order: array<u32>;           // [images of the epoch]
@group(0) @binding(5) var<storage, read> normalisation: array<vec2f>; // [channels]: scale, offset
@group(0) @binding(6) var<storage, read_write> x: array<f32>;         // [n, channels, height, width]
@group(0) @binding(7) var<storage, read_write> targets: array<u32>;   // [n]
@group(0) @binding(8) var<storage, read> turns: array<vec2i>;         // [256]: cosine, sine of a level, in 2^-14

@compute @workgroup_size(WORKGROUP)
fn gather(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let pixels = dims.channels * dims.plane;
    if at >= batch.count * pixels { return; }
    let n = at / pixels;
    let pixel = at % pixels;
    let image = order[batch.first + n];
    if pixel == 0u { targets[n] = labels[image]; }

    let byte = image * pixels + pixel;
    let value = f32((images[byte / 4u] >> (byte % 4u * 8u)) & 255u);
    let affine = normalisation[pixel / dims.plane];
    x[at] = value * affine.x + affine.y;
}

// The same of images that are augmented: what is drawn, and where pixels go, is as in `src/ops/augment`. All of it is
// in whole numbers: the bytes are those of the twin.
const ONE = 16384;

@compute @workgroup_size(WORKGROUP)
fn gather_augmented(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                    @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let pixels = dims.channels * dims.plane;
    if at >= batch.count * pixels { return; }
    let n = at / pixels;
    let pixel = at % pixels;
    let image = order[batch.first + n];
    if pixel == 0u { targets[n] = labels[image]; }

    let size = vec2i(i32(dims.plane / dims.width), i32(dims.width));
    let here = vec2i(i32(pixel % dims.plane / dims.width), i32(pixel % dims.width));
    let drawn = image_random(AUGMENT, part.before + n);
    // The upper half of a word, which is below 2^16, in 0..count.
    let moved = vec2i((vec2u(drawn.x >> 16u, drawn.y >> 16u) * (2u * dims.shift + 1u)) >> vec2u(16u));
    let centre = vec2i((vec2u(drawn.w >> 16u, drawn.w & 0xffffu) * vec2u(size)) >> vec2u(16u));
    let flipped = dims.flip == 1u && drawn.z >> 31u == 1u;
    let there = vec2i(here.x, select(here.y, size.y - 1 - here.y, flipped)) + moved - i32(dims.shift);
    let half = i32(dims.cutout / 2u);
    let cut = all(here + half >= centre) && all(here + half < centre + i32(dims.cutout));

    let plane = (image * dims.channels + pixel / dims.plane) * dims.plane;
    var value = 128;
    if !cut {
        if dims.affine == 1u { value = resampled(n, plane, size, there); } else { value = byte_at(plane, size, there); }
        if dims.toned == 1u { value = toned(n, value); }
    }
    let affine = normalisation[pixel / dims.plane];
    x[at] = f32(value) * affine.x + affine.y;
}

// The byte at a place of a plane; beyond its edges, what `reflect` says.
fn byte_at(plane: u32, size: vec2i, there: vec2i) -> i32 {
    let outside = any(there < vec2i()) || any(there >= size);
    if outside && dims.reflect == 0u { return 0; }
    let inside = vec2i(reflected(there.x, size.x), reflected(there.y, size.y));
    let byte = plane + u32(inside.x) * dims.width + u32(inside.y);
    return i32((images[byte / 4u] >> (byte % 4u * 8u)) & 255u);
}

// Mirrored at the outermost pixels, as often as it takes.
fn reflected(at: i32, size: i32) -> i32 {
    let period = max(2 * (size - 1), 1);
    let within = (at % period + period) % period;
    return select(period - within, within, within < size);
}

// What level `word` of a range is of `most`.
fn of_level(most: i32, word: u32) -> i32 { return most * (2 * i32(word >> 24u) - 255) / 255; }

// The four pixels around the place that `there` has in image `n` before it is turned and scaled.
fn resampled(n: u32, plane: u32, size: vec2i, there: vec2i) -> i32 {
    let drawn = image_random(AFFINE, part.before + n);
    let inverse = ONE * ONE / (ONE + of_level(dims.scale, drawn.y));
    let turn = (turns[drawn.x >> 24u] * inverse) >> vec2u(14u);
    // From the middle, in half pixels.
    let off = 2 * there - (size - 1);
    let at = vec2i(turn.y * off.y + turn.x * off.x, turn.x * off.y - turn.y * off.x) + (size - 1) * ONE + 64;
    let corner = at >> vec2u(15u);
    let right = (at >> vec2u(7u)) & vec2i(255);
    let left = 256 - right;
    let sum = left.x * left.y * byte_at(plane, size, corner) +
              left.x * right.y * byte_at(plane, size, corner + vec2i(0, 1)) +
              right.x * left.y * byte_at(plane, size, corner + vec2i(1, 0)) +
              right.x * right.y * byte_at(plane, size, corner + vec2i(1, 1));
    return (sum + 32768) >> 16u;
}

fn toned(n: u32, value: i32) -> i32 {
    let drawn = image_random(TONE, part.before + n);
    let contrast = ONE + of_level(dims.contrast, drawn.y);
    return clamp(((value - 128) * contrast + 128 * ONE + of_level(dims.brightness, drawn.x) + ONE / 2) >> 14u, 0, 255);
}

@compute @workgroup_size(WORKGROUP)
fn labels_only(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let n = flat_thread(group, groups, local);
    if n < batch.count { targets[n] = labels[order[batch.first + n]]; }
}
