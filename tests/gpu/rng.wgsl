@group(0) @binding(1) var<storage, read> input: array<vec4u>;            // a counter and a key, for each number wanted
@group(0) @binding(2) var<storage, read_write> output: array<vec4u>;

@compute @workgroup_size(WORKGROUP)
fn blocks(@builtin(global_invocation_id) at: vec3u) {
    if at.x >= batch.count { return; }
    output[at.x] = philox(input[2u * at.x], input[2u * at.x + 1u].xy);
}

@compute @workgroup_size(WORKGROUP)
fn of_layer(@builtin(global_invocation_id) at: vec3u) {
    if at.x >= batch.count { return; }
    output[at.x] = vec4u(layer_random(3u, 4u * at.x), layer_random(3u, 4u * at.x + 1u),
                         layer_random(3u, 4u * at.x + 2u), layer_random(4u, 4u * at.x + 3u));
}
