// Mixup and cutmix, in place: image k of the batch and image count - 1 - k. Outside the rectangle, which is empty for
// mixup, x[k] = pixels x[k] + (1 - pixels) x[partner]; inside, the partner's. One thread owns one pixel of both.

struct Dims {
    plane: u32,   // height * width
    width: u32,
    pixels: u32,  // channels * height * width
}
@group(0) @binding(1) var<uniform> dims: Dims;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;  // [n, channels, height, width]

@compute @workgroup_size(WORKGROUP)
fn pairs(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let thread = flat_thread(group, groups, local);
    let k = thread / dims.pixels;
    if k >= batch.count / 2u { return; }
    let pixel = thread % dims.pixels;
    let own = k * dims.pixels + pixel;
    let partner = (batch.count - 1u - k) * dims.pixels + pixel;
    let row = pixel % dims.plane / dims.width;
    let column = pixel % dims.width;
    let inside = row >= part.top && row < part.bottom && column >= part.left && column < part.right;
    let a = x[own];
    let b = x[partner];
    let kept = select(part.pixels, 0.0, inside);
    let given = select(1.0 - part.pixels, 1.0, inside);
    x[own] = kept * a + given * b;
    x[partner] = kept * b + given * a;
}
