// attend_split: positions are read in parts, which combine joins.

@group(0) @binding(3) var<storage, read_write> partials: array<vec4<f32>>;

fn finish(row: Row, plane: u32, split: u32, vector: u32, sum: vec4<f32>, largest: f32, weight: f32) {
    let part = (plane * params.tokens * GROUP + row.index) * SPLITS + split;
    let first = part * (cache_value_vectors + 1u);
    partials[first + vector] = sum;
    if vector == 0u {
        partials[first + cache_value_vectors] = vec4<f32>(largest, weight, 0.0, 0.0);
    }
}
