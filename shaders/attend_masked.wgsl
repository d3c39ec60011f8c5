// attend_masked: a mask is added to the score.

@group(0) @binding(4) var<storage, read> mask: array<f32>;

fn masked(row: Row, position: u32, score: f32) -> f32 {
    return score + mask[row.mask + position];
}
