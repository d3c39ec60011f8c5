// read: f32, f16 or bf16, one element per load. Works for every head size.

#import ../pair/{f16,f16_of_integers,bf16}.wgsl as side

fn side_element(plane: u32, slot: u32, dim: u32) -> f32 {
    if dim >= side_dim {
        return 0.0;
    }
    let element = slot * side_dim + dim;
    let word = side_load(plane, element / side_lanes);
    if side_lanes == 1u {
        return bitcast<f32>(word);
    }
    let pair = side_pair(word);
    return select(pair.x, pair.y, element % 2u == 1u);
}

fn side_at(plane: u32, slot: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(
        side_element(plane, slot, 4u * i),
        side_element(plane, slot, 4u * i + 1u),
        side_element(plane, slot, 4u * i + 2u),
        side_element(plane, slot, 4u * i + 3u),
    );
}
