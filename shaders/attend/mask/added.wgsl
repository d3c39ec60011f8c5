// added: a mask is added to the score.

@group(0) @binding(4) var<storage, read> mask: array<f32>;

fn mask_at(row: Row, position: u32) -> f32 {
    return mask[row.mask + position];
}
