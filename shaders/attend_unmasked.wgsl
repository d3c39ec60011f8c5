// attend_unmasked: there is no mask.

fn masked(row: Row, position: u32, score: f32) -> f32 {
    return score;
}
