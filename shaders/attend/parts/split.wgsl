// split: positions are read in parts, which combine joins.
//
// Shapes:  partials   (splits, tiles), then
//                     [z of the grid, tile, row, split, value vectors and then (largest score, sum of weights)]

@group(0) @binding(3) var<storage, read_write> partials: array<vec4<f32>>;

fn begin(group: vec3<u32>, groups: vec3<u32>, local: u32) {
    if local == 0u && all(group == vec3<u32>()) {
        partials[0] = vec4<f32>(f32(groups.x), f32(groups.y), 0.0, 0.0);
    }
}

fn finish(row: Row, part: u32, vector: u32, sum: vec4<f32>, largest: f32, weight: f32) {
    let first = 1u + part * (cache_value_vectors + 1u);
    partials[first + vector] = sum;
    if vector == 0u {
        partials[first + cache_value_vectors] = vec4<f32>(largest, weight, 0.0, 0.0);
    }
}
